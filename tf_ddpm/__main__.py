"""python -m tf_ddpm --mode=..."""

from tf_ddpm.commands.cli import entry

if __name__ == "__main__":
    entry()
