"""What belongs to Jupyter's servers: whole kernels in containers, and JupyterHub. Nothing here is imported by the rest."""
