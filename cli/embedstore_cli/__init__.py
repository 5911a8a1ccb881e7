"""The command line of embedstore: one file a command, no logic."""
