"""The commands of pyflowguard, a module for each family; pyflowguard.cli imports the one that is asked for."""
