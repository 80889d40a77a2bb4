# shellcheck shell=bash disable=SC2034
# An example: CPU nodes on Ethernet, Open MPI as `make env` brings it. What to look up is on the right.
source slurm/sites/default.sh

INTERFACE=${INTERFACE:-eth0}            # ip -brief address   one that all nodes share; docker0 and virbr0 do not
export OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,sm,tcp
export OMPI_MCA_btl_tcp_if_include=$INTERFACE
export PRTE_MCA_prte_if_include=$INTERFACE
export HOROVOD_GLOO_IFACE=$INTERFACE
HOROVODRUN=(--network-interfaces "$INTERFACE")
