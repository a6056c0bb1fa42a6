"""The one place that knows the version. `pyproject.toml` and `picows.__version__` read it from here."""

__version__ = "0.1.0"
