# shellcheck shell=bash
# What every job of this folder does. The templates source it and call, in this order:
#
#   begin OUT         OUT is the folder of the run; keep the script and the environment in it
#   preflight         the doctor on every rank: a broken node is found in seconds, not in hours
#   launch PROGRAM    start it on every rank and wait; a stop signal is handed on to the ranks
#   finish            say what the job achieved, then end, or go back into the queue
#
# The site file (SITE=..., see sites/default.sh) says how programs are started here.

RESUME_ME=85  # exit status of ranks that were asked to stop and have written a checkpoint
KILLED_EARLY=140  # 128 + USR2: the signal came before Python could listen
CRASHES=${CRASHES:-3}  # in a row without a new checkpoint, then the job gives up

SITE=${SITE:-default}
[[ $SITE == */* ]] || SITE=slurm/sites/$SITE.sh
# shellcheck source=slurm/sites/default.sh
source "$SITE"

launched='' stopping='' interrupted='' status=0
RESTARTS=${SLURM_RESTART_COUNT:-0}

say() { echo "[job ${SLURM_JOB_ID:-?}.$RESTARTS $(date +%H:%M:%S)] $*"; }

# --- stop signals -------------------------------------------------------------------------------------

# A trap: it must be short and start nothing that a second signal could tear apart.
stop() {
    stopping=$1 interrupted=1
    [[ -z $launched ]] || hand_on
}

# srun and mpirun hand a signal to every rank, once. horovodrun would die of it and leave its ranks
# behind; they also look for this file.
hand_on() {
    if [[ $LAUNCHER == horovodrun ]]; then touch "$OUT/STOP"; else kill -USR2 "$launched" || true; fi
} 2>/dev/null

trap 'stop USR2' USR2  # by --signal=B:USR2@..., before the time limit
trap 'stop TERM' TERM  # by scancel and preemption

# --- the four parts of a job --------------------------------------------------------------------------

begin() {
    local owner='' kept id=$SLURM_JOB_ID
    OUT=${1:?begin needs the folder of the run} kept=$1/slurm
    mkdir -p "$kept"
    [[ ! -f $kept/owner ]] || read -r owner <"$kept/owner"
    if [[ -n $owner && $owner != "$id" && -n $(state_of "$owner") ]]; then
        say "$OUT belongs to job $owner ($(state_of "$owner")): cancel that one, or give another OUT" && exit 2
    fi
    echo "$id" >"$kept/owner"
    rm -f "$OUT/STOP"
    say "$SLURM_JOB_NUM_NODES node(s) $SLURM_JOB_NODELIST, $SLURM_NTASKS rank(s) by $LAUNCHER, in $OUT"
    cp "$0" "$kept/job-$id.sbatch"
    cp "$SITE" "$kept/site-$id.sh"
    # What may be a secret stays out.
    env | grep -Eiv '^[^=]*(key|token|secret|passw|credential)[^=]*=' | sort >"$kept/environment-$id.txt"
}

already_done() {
    local word
    word=$("$PYTHON" -m hpc_localsgd summary --status "$OUT")
    [[ $word == complete || $word == diverged ]] || return 1
    say "skipped: $word already"
}

preflight() {
    [[ ${PREFLIGHT:-1} == 1 ]] || return 0
    launch "$PYTHON" -m hpc_localsgd doctor
    [[ $status != 0 && -z $stopping ]] || return 0
    say "the doctor found a problem (above): nothing was started"
    # What worked at the first start and fails now is a bad node: try another.
    ((RESTARTS)) && crashed
    exit 2
}

launch() {
    local how=() command=("${CONTAINER[@]}" "$@") ranks=${RANKS:-$SLURM_NTASKS}
    [[ -z $stopping ]] || { status=$RESUME_ME && return; }
    case $LAUNCHER in
    srun) how=(srun "${SRUN[@]}" --nodes="${NODES:-$SLURM_JOB_NUM_NODES}" --ntasks="$ranks") ;;
    mpirun) how=(mpirun "${MPIRUN[@]}" -np "$ranks") ;;
    horovodrun)
        PATH=$PWD/slurm/horovodrun:$PATH  # its ssh
        how=(horovodrun "${HOROVODRUN[@]}" -np "$ranks" -H "$(hosts)")
        ;;
    *) say "LAUNCHER=$LAUNCHER: give srun, mpirun or horovodrun" && exit 2 ;;
    esac
    "${how[@]}" "${command[@]}" &
    launched=$!
    [[ -z $stopping ]] || hand_on  # it came just now
    # A signal ends `wait` early, with a status that is not the program's.
    interrupted=1
    while [[ -n $interrupted ]]; do
        interrupted='' status=0
        wait "$launched" || status=$?
    done
    launched=''
}

finish() {
    "$PYTHON" -m hpc_localsgd summary "$OUT" || true
    case $status in
    0) say "done" ;;
    2) say "refused, see the message above; to try again would not help" ;;
    3) say "diverged; to try again would not help" ;;
    "$RESUME_ME" | "$KILLED_EARLY") requeue "stopped on request" ;;
    *) crashed ;;
    esac
    exit "$status"
}

# --- back into the queue ------------------------------------------------------------------------------

# A job whose ranks fail is tried again, unless that brings it no further.
crashed() {
    local count=0 before='' newest='' file=$OUT/slurm/crashes-$SLURM_JOB_ID
    [[ ! -d $OUT/checkpoints ]] ||
        newest=$(find "$OUT/checkpoints" -type f -name 'rank-*' -printf '%T@\n' | sort -n | tail -n 1)
    [[ ! -f $file ]] || read -r count before <"$file" || true
    [[ $before == "$newest" ]] || count=0
    count=$((count + 1))
    echo "$count $newest" >"$file"
    ((count < CRASHES)) || { say "failed $count times without progress: giving up" && exit "$status"; }
    requeue "failed with status $status, $count of $CRASHES times without progress"
}

requeue() {
    local word
    word=$(state_of "$SLURM_JOB_ID")
    if [[ $stopping == TERM || $word != RUNNING ]]; then
        say "$1, ended by Slurm; to go on, submit it again" && exit "$status"
    fi
    say "$1; back into the queue"
    trap '' TERM USR2  # Slurm ends this script as soon as it is requeued
    scontrol requeue "$SLURM_JOB_ID" && exit 0
    say "it could not be requeued; to go on, submit it again" && exit "$status"
}

# PENDING, RUNNING, COMPLETING ...; nothing for a job that has left the queue.
state_of() { squeue --noheader --jobs "$1" --format %T 2>/dev/null || true; }

# host1:4,host2:4 for horovodrun
hosts() {
    local per_node=$(((SLURM_NTASKS + SLURM_JOB_NUM_NODES - 1) / SLURM_JOB_NUM_NODES))
    scontrol show hostnames "$SLURM_JOB_NODELIST" | sed "s/\$/:$per_node/" | paste -sd ,
}
