"""The experiments of the papers: what is run (scale, tasks), how (folder, runner, slurm), the results."""
