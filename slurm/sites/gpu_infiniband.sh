# shellcheck shell=bash disable=SC2034
# An example: GPU nodes on InfiniBand, Horovod built with NCCL. What to look up is on the right.
source slurm/sites/default.sh

# module purge && module load gcc openmpi cuda nccl          # module avail: those Horovod was built with

export NCCL_SOCKET_IFNAME=ib0           # ip -brief address   the interface of the fast network
export NCCL_IB_HCA=mlx5                 # ibstat -l           all adapters whose name begins so
export NCCL_DEBUG=${NCCL_DEBUG:-WARN}   # INFO says which network NCCL found: look for "NET/IB"
export UCX_NET_DEVICES=${UCX_NET_DEVICES:-all}
export OMPI_MCA_pml=ucx OMPI_MCA_osc=ucx
