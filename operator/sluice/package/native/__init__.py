"""Model files of XGBoost, LightGBM and CatBoost: read, checked and served without Python objects.

Called by the packager, ``bare`` and the runtime's loader.  ``description`` says what was found in a
file, ``*_file`` find it without the library, ``*_engine`` ask the library, ``fitted`` turns a
fitted object into its library's file.
"""
