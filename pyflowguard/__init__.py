"""PyFlowGuard: makes PostgreSQL itself keep every row linked to its master."""

__version__ = "1.3.0"
