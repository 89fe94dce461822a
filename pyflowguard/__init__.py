"""PyFlowGuard: makes PostgreSQL itself keep every row linked to its master."""

__version__ = "0.1.0"
