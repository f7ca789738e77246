"""What runs in Jobs and init containers: fetch, push and validate.

Called by the CLI; calls ``sluice.sources``, ``sluice.package`` and the runtime's loaders.
"""
