# shellcheck shell=bash disable=SC2034
# How programs are started here. Every variable a site may set, with values that suit most sites; the other files
# of this folder source this one and change what differs. Yours: copy one, then  SITE=mysite sbatch slurm/...
# A value given when submitting wins:  LAUNCHER=mpirun sbatch slurm/...

# srun needs a Slurm with PMIx (srun --mpi=list); mpirun an Open MPI that knows Slurm; horovodrun neither.
LAUNCHER=${LAUNCHER:-srun}
SRUN=(--mpi=pmix --kill-on-bad-exit=1)
MPIRUN=(--bind-to none)
HOROVODRUN=()

# module load gcc openmpi/5 cuda nccl hdf5
[[ ! -f .venv/bin/activate ]] || export PATH="$PWD/.venv/bin:$PATH"  # what `make env` built
PYTHON=${PYTHON:-python}
CONTAINER=()  # put in front of every program on every rank

export PYTHONUNBUFFERED=1
# srun no longer takes this from sbatch by itself.
[[ -z ${SLURM_CPUS_PER_TASK:-} ]] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
# Parallel file systems often have no locks, and only rank 0 opens the record.
export HDF5_USE_FILE_LOCKING=${HDF5_USE_FILE_LOCKING:-FALSE}
