"""What users write: the kinds of group sluice.dev, their conditions, and the CRD generator.

Imported by everyone on the cluster side; imports pydantic only."""
