"""The front door: a flag chooses the mode. `python main.py --helpshort` explains every flag."""

from tf_ddpm.commands.cli import entry

if __name__ == "__main__":
    entry()
