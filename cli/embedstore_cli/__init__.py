"""The command line of embedstore: a file for each group of commands, no logic."""
