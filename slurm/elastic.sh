# shellcheck shell=bash disable=SC2034,SC2154
# What elastic.sbatch does beyond job.sh, for a job whose number of nodes changes:
#
#   count_ranks N                    N ranks on each node, where Slurm was told of no tasks
#   launch_on_what_is_left PROGRAM   `launch`, and again on fewer nodes, when one has failed; no more
#                                    ranks than workers

LEAST=${LEAST:-1}  # nodes that a job of --no-kill goes on with
ANSWER=${ANSWER:-60}  # seconds in which a node that is well starts a program

# To a job with --ntasks-per-node Slurm 22.05 gives no more nodes than the fewest of its range would have
# tasks; to one without, all that are free. But then its variables, which mpirun reads too, know of no ranks,
# or of those of another job, within which this one was submitted.
count_ranks() {
    local per_node=$1 nodes=$SLURM_JOB_NUM_NODES threads=${SLURM_CPUS_PER_TASK:-} cpus tasks
    tasks=$(counts "${SLURM_TASKS_PER_NODE:-}" | paste -sd +)
    [[ -z ${SLURM_NTASKS:-} || -z $tasks ]] || ((SLURM_NTASKS != tasks)) || return 0
    if [[ ! $per_node =~ ^[1-9][0-9]*$ ]]; then
        say "TASKS_PER_NODE=$per_node: give the number of ranks on each node" && exit 2
    fi
    cpus=$(counts "$SLURM_JOB_CPUS_PER_NODE" | sort -n | head -n 1)
    if ((cpus < per_node * ${threads:-1})); then
        say "$per_node rank(s) of ${threads:-1} CPU(s) on each node, and one has $cpus:" \
            "submit with --mincpus=$((per_node * ${threads:-1}))" && exit 2
    fi
    SRUN+=(--ntasks-per-node="$per_node")
    export SRUN_CPUS_PER_TASK=${threads:-$((cpus / per_node))} SLURM_NTASKS_PER_NODE=$per_node
    export SLURM_TASKS_PER_NODE="$per_node(x$nodes)"
    export SLURM_NTASKS=$((per_node * nodes)) SLURM_NPROCS=$((per_node * nodes))
}

# `launch`, in a job of --no-kill: when a node has failed, which ends the ranks and not the job, once
# more on the nodes that are left. Each time they are fewer.
launch_on_what_is_left() {
    local most
    most=${WORKERS:-$(workers_of "$@")}
    ranks_for "$most"
    launch "$@"
    while a_node_has_failed; do
        ranks_for "$most"
        launch "$@"
    done
}

# The workers of a training, as its words and files say; nothing if they are refused, which it will say itself.
workers_of() { "${CONTAINER[@]}" "$@" --print_config 2>/dev/null | sed -n 's/^workers: //p' || true; }

# Every rank has one worker at least: no more are started.
ranks_for() {
    RANKS='' NODES=''
    [[ $1 =~ ^[1-9][0-9]*$ ]] && (($1 < SLURM_NTASKS)) || return 0
    RANKS=$1 NODES=$(($1 < SLURM_JOB_NUM_NODES ? $1 : SLURM_JOB_NUM_NODES))
    left=$(cut -d , -f "-$NODES" <<<"$left")  # srun may be given no more names than nodes
    say "$1 worker(s): $1 of $SLURM_NTASKS ranks train, and the others stay idle"
}

# Whether that was why the launch failed; then the job is those that are left. Ranks that Slurm ends with
# their step are asked to stop, as by a user: so that status says nothing.
a_node_has_failed() {
    local nodes before=$SLURM_JOB_NUM_NODES
    [[ -z $stopping && ! $status =~ ^(0|2|3|87)$ ]] || return 1
    [[ $(state_of "$JOB") =~ ^(RUNNING|unknown|)$ ]] || return 1  # it is being cancelled
    mapfile -t nodes < <(nodes_that_answer)
    ((${#nodes[@]} < before)) || return 1
    say "status $status, and ${#nodes[@]} of $before nodes answer"
    ((${#nodes[@]} >= LEAST)) || return 1
    only_on "${nodes[@]}"
    say "on with $SLURM_NTASKS rank(s) on $left"
    [[ -z $stopping ]]  # it may have come while the nodes were asked
}

# Those that start a program. Slurm itself may take minutes to notice that a node is gone.
nodes_that_answer() {
    local node
    for node in $(scontrol show hostnames "$SLURM_JOB_NODELIST"); do
        timeout -k 5 "$ANSWER" srun --overlap --nodes=1 --ntasks=1 --nodelist="$node" true && echo "$node" &
    done 2>/dev/null
    wait
}

# From here on the job is some of its nodes: so say Slurm's variables, which mpirun reads too.
only_on() {
    local names="$*" tasks cpus=''
    [[ -z ${SLURM_JOB_CPUS_PER_NODE:-} ]] || cpus=$(kept 2 "$SLURM_JOB_CPUS_PER_NODE")
    tasks=$(kept 2) left=$(kept 1)
    export SLURM_JOB_NODELIST=$left SLURM_NODELIST=$left SLURM_JOB_NUM_NODES=$# SLURM_NNODES=$#
    export SLURM_TASKS_PER_NODE=$tasks SLURM_NTASKS=$((${tasks//,/+})) SLURM_NPROCS=$((${tasks//,/+}))
    [[ -z $cpus ]] || export SLURM_JOB_CPUS_PER_NODE=$cpus
}

# Names (1) or counts (2) of these `names`, in the order of the job: a,c or 4,3.
kept() { hosts "${2:-$SLURM_TASKS_PER_NODE}" | tr , '\n' | grep -E "^(${names// /|}):" | cut -d : -f "$1" | paste -sd ,; }
