# shellcheck shell=bash disable=SC2034
# An example: everything in an Apptainer image, started by the cluster's own srun or mpirun.
# The MPI in the image must understand the PMIx of the cluster: srun --mpi=list outside, ompi_info | grep pmix inside.
source slurm/sites/default.sh

IMAGE=${IMAGE:-$HOME/hpc_localsgd.sif}
# --nv gives the GPUs; the repository and the data must be visible inside.
CONTAINER=(apptainer exec --nv --bind "$PWD" --bind "${SCRATCH:-/tmp}" "$IMAGE")
PYTHON=python3
