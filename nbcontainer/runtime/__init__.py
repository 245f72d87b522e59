"""The way into one container: plan, zygote, init, cell. Nothing of Jupyter but IPython's shell, in the cell itself."""
