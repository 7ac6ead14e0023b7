"""`python -m pstmo_edge`: the command line, as `torchrun -m pstmo_edge train ...` starts it in every process."""

from pstmo_edge.cli import main

if __name__ == "__main__":
    main()
