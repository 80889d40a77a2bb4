# shellcheck shell=bash
# What every job of this folder does. The templates source it and call, in this order:
#
#   begin OUT         OUT is the folder of the run; keep the script and the environment in it
#   preflight         the doctor on every rank: a broken node is found in seconds, not in hours
#   launch PROGRAM    start it on every rank and wait; a stop signal is handed on to the ranks
#   finish            say what the job achieved, then end, or go back into the queue
#
# The site file (SITE=..., see sites/default.sh) says how programs are started here. A template that does
# not train names, before it launches, the file that GROWS as its work gets on.

# The name of an element of an array, 7_3: its number may be that of the whole array. A job that an element
# has submitted finds that one's variables, and is none. Slurm knows; if it does not answer, they are believed.
element() {
    local said
    said=$(squeue --noheader --jobs "$SLURM_JOB_ID" --format '%A %i' 2>/dev/null || true)
    said=$(awk -v number="$SLURM_JOB_ID" '$1 == number { print $2 }' <<<"$said")
    echo "${said:-${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}"
}

# What words say of an option, behind it or behind its =; the last of them counts. Nothing if none does.
said_of() {
    local option=$1 word before='' found=''
    for word in "${@:2}"; do
        [[ $before != "$option" ]] || found=$word
        [[ $word != "$option"=* ]] || found=${word#*=}
        before=$word
    done
    printf '%s' "$found"
}

RESUME_ME=85  # exit status of ranks that were asked to stop and have written a checkpoint
KILLED_EARLY=140  # 128 + USR2: the signal came before Python could listen
CRASHES=${CRASHES:-3}  # starts that failed and got no further, then the job gives up
STOPS=${STOPS:-10}  # starts that were stopped and got no further
PAUSE=${PAUSE:-10}  # seconds until a thing is tried again

SITE=${SITE:-default}
[[ $SITE == */* ]] || SITE=slurm/sites/$SITE.sh
# shellcheck source=slurm/sites/default.sh
source "$SITE"

unset SLURM_EXPORT_ENV  # of sbatch --export=NONE or OUT=...: srun would start ranks without this environment
JOB=${SLURM_JOB_ID:?submit me with sbatch}
[[ -z ${SLURM_ARRAY_JOB_ID:-} ]] || JOB=$(element)
launched='' stopping='' interrupted='' trains='' left='' status=0
NODES='' RANKS='' GROWS=''  # of templates: not whatever the shell that submitted has under these names
RESTARTS=${SLURM_RESTART_COUNT:-0}

say() { echo "[job $JOB.$RESTARTS $(date +%H:%M:%S)] $*"; }

# --- stop signals -------------------------------------------------------------------------------------

# A trap: it must be short and start nothing that a second signal could tear apart.
stop() {
    stopping=$1 interrupted=1
    [[ -z $launched ]] || hand_on
}

# srun and mpirun hand a signal to every rank, once. horovodrun would die of it and leave its ranks
# behind; they also look for this file, if they train. What does not is ended, by the mpirun below if any.
hand_on() {
    if [[ $LAUNCHER != horovodrun ]]; then
        kill -USR2 "$launched" || true
    elif [[ -n $trains ]]; then
        touch "$OUT/STOP"
    else
        pkill -TERM -P "$launched" 'mpirun|prterun' || kill -TERM "$launched" || true
    fi
} 2>/dev/null

trap 'stop USR2' USR2  # by --signal=B:USR2@..., before the time limit
trap 'stop USR1' USR1  # where that says USR1, as jobs of other programs do
trap 'stop TERM' TERM  # by scancel and preemption

# --- the four parts of a job --------------------------------------------------------------------------

begin() {
    local kept
    OUT=${1:?begin needs the folder of the run} kept=$1/slurm
    [[ $OUT != -* ]] || { say "$OUT: give the folder of the run first, options behind it"; exit 2; }
    mkdir -p "$kept"
    own "$kept"
    rm -f "$OUT/STOP"
    say "$SLURM_JOB_NUM_NODES node(s) $SLURM_JOB_NODELIST, $SLURM_NTASKS rank(s) by $LAUNCHER, in $OUT"
    cp "$0" "$kept/job-$JOB.sbatch"
    cp "$SITE" "$kept/site-$JOB.sh"
    install -m 600 /dev/null "$kept/environment-$JOB.txt"
    settings >"$kept/environment-$JOB.txt"
}

already_done() {
    local word
    word=$(summary --status "$OUT")
    [[ $word == complete || $word == diverged ]] || return 1
    say "skipped: $word already"
}

preflight() {
    [[ ${PREFLIGHT:-1} == 1 ]] || return 0
    launch "$PYTHON" -m hpc_localsgd doctor
    # Ended by a signal it has found nothing: now and then MPI_Init of Open MPI 5 crashes under srun,
    # when a message comes before a rank is ready for it (open-mpi/ompi#12495).
    if ((status > 128)) && [[ -z $stopping ]]; then
        say "the doctor crashed, with status $status: once more"
        launch "$PYTHON" -m hpc_localsgd doctor
    fi
    [[ $status != 0 && -z $stopping ]] || return 0
    say "the doctor found a problem (above): nothing was started"
    # What worked at the first start and fails now is a bad node: try another.
    ((RESTARTS)) && requeue failed
    exit 2
}

launch() {
    local how=() command=("${CONTAINER[@]}" "$@") ranks=${RANKS:-$SLURM_NTASKS}
    [[ -z $stopping ]] || { status=$RESUME_ME && return; }
    trains=''
    [[ " ${*:3:2} " != *[.\ ]train\ * ]] || trains=1
    # srun starts a daemon a node of these, which gets all CPUs of the job there, not those of one task.
    [[ $LAUNCHER == srun ]] || unset SRUN_CPUS_PER_TASK
    case $LAUNCHER in
    srun)
        how=(srun "${SRUN[@]}" --nodes="${NODES:-$SLURM_JOB_NUM_NODES}" --ntasks="$ranks")
        [[ -z $left ]] || how+=(--nodelist="$left")
        ;;
    mpirun) how=(mpirun "${MPIRUN[@]}" -np "$ranks") ;;
    horovodrun)
        PATH=$PWD/slurm/horovodrun:$PATH  # its ssh
        how=(horovodrun "${HOROVODRUN[@]}" -np "$ranks" -H "$(hosts "$SLURM_TASKS_PER_NODE")")
        ;;
    *) say "LAUNCHER=$LAUNCHER: give srun, mpirun or horovodrun" && exit 2 ;;
    esac
    "${how[@]}" "${command[@]}" &
    launched=$!
    [[ -z $stopping ]] || hand_on  # it came just now
    # A signal ends `wait` early, with a status that is not the program's.
    interrupted=1
    while [[ -n $interrupted ]]; do
        [[ $LAUNCHER != horovodrun || -z $stopping ]] || insist
        interrupted='' status=0
        wait "$launched" || status=$?
    done
    launched=''
    # Stopped, horovodrun ends with 1, or of our signal, whatever its ranks said.
    [[ $LAUNCHER != horovodrun || -z $stopping || $status =~ ^[023]$ ]] || status=$RESUME_ME
}

# Ranks that are just beginning may take the file for one of the job before: it is made again until they end.
insist() {
    local seconds
    for ((seconds = 1; ; seconds++)); do
        kill -0 "$launched" 2>/dev/null || return 0
        sleep 1
        ((seconds % PAUSE)) || hand_on
    done
}

finish() {
    summary "$OUT" || true
    case $status in
    0) say "done" ;;
    2) say "refused, see the message above; to try again would not help" ;;
    3) say "diverged; to try again would not help" ;;
    87) say "its folder or record is gone, see the message above; to try again would not help" ;;
    "$RESUME_ME" | "$KILLED_EARLY") requeue stopped ;;
    *) requeue failed ;;
    esac
    exit "$status"
}

# --- back into the queue ------------------------------------------------------------------------------

# Ends this script: `requeue failed` or `requeue stopped`.
requeue() {
    local why="stopped on request" bound=$STOPS count word try
    [[ $1 == stopped ]] || why="failed with status $status" bound=$CRASHES
    word=$(state_of "$JOB")
    if [[ $stopping == TERM || -n $word && ! $word =~ ^(RUNNING|unknown)$ ]]; then
        say "$why, ended by Slurm; to continue, submit it again, if Slurm does not start it again itself"
        exit "$status"
    fi
    count=$(starts_in_vain "$1")
    if ((count >= bound)); then
        say "$1 $count times without progress: giving up (see slurm/README.md)" && exit "$status"
    fi
    ((count == 1)) || why+=", $count of $bound times without progress"
    say "$why; back into the queue"
    trap '' TERM USR1 USR2  # Slurm ends this script as soon as it is requeued
    for try in {1..5}; do
        ((try == 1)) || sleep "$PAUSE"
        scontrol requeue "$JOB" && exit 0
    done
    say "it could not be requeued; to continue, submit it again" && exit "$status"
}

# How many starts in a row came to this end and had begun no further than those before them. What they
# leave behind says nothing: one that fails at the same step each time writes new files each time.
starts_in_vain() {
    local count='' furthest='' at file=$OUT/slurm/$1-$JOB
    at=$(progress)
    [[ ! -f $file ]] || read -r count furthest <"$file" || true
    [[ ${at:--1} -le ${furthest:--1} ]] || count=0 furthest=$at
    count=$((${count:-0} + 1))
    echo "$count $furthest" >"$file" && echo "$count"  # not counted is not tried again
}

# The step at which this start of a run began, or, where a template names a file that GROWS, its size;
# nothing if there is neither, or the node cannot say.
progress() {
    local number
    if [[ -n ${GROWS:-} ]]; then number=$(stat -c %s "$GROWS"); else number=$(summary --began "$OUT"); fi
    [[ ! $number =~ ^[0-9]+$ ]] || echo "$number"
} 2>/dev/null

# --- asking -------------------------------------------------------------------------------------------

summary() { "${CONTAINER[@]}" "$PYTHON" -m hpc_localsgd summary "$@"; }

# PENDING, RUNNING, COMPLETING ...; nothing for a job that has left the queue; unknown if Slurm is silent.
state_of() {
    local said try
    for try in {1..5}; do
        ((try == 1)) || sleep "$PAUSE"
        if said=$(squeue --noheader --jobs "$1" --format %T 2>&1); then
            grep -xE '[A-Z_]+' <<<"$said" || true
            return 0
        fi
        [[ $said != *"Invalid job id"* ]] || return 0
    done
    echo unknown
}

# One job at a time in a folder. Of two that come at the same moment one can make the lock, on any file
# system; it is held for a moment only, or was left by a job that was killed in it.
own() {
    local kept=$1 owner state='' try
    owner=$(owner_of "$kept")
    [[ $owner != "$JOB" ]] || return 0
    [[ -z $owner ]] || state=$(state_of "$owner")
    if [[ -n $state ]]; then
        say "$OUT belongs to job $owner ($state): cancel that one, or give another OUT" && exit 2
    fi
    for try in {1..20}; do
        ((try == 1)) || sleep 1
        ! mkdir "$kept/owner.lock" 2>/dev/null || break
    done
    if [[ $(owner_of "$kept") == "$owner" ]]; then
        echo "$JOB" >"$kept/owner.new"
        mv "$kept/owner.new" "$kept/owner"  # never half written
    fi
    rmdir "$kept/owner.lock" || true
    own "$kept"  # another one may have been faster
}

owner_of() { [[ ! -e $1/owner ]] || cat "$1/owner"; }

# The part of the environment that programs are started by. All else may hold secrets, and so may this.
settings() {
    local name part='SLURM|SBATCH|SRUN|PMI|PRTE|OMPI|UCX|NCCL|GLOO|HOROVOD|OMP_|MKL|CUDA|ROCR|HIP|TORCH'
    part+='|HDF5|PYTHON|VIRTUAL_ENV|CONDA_PREFIX|PATH|LD_|LOADEDMODULES|MODULE|LANG|LC_|HOST'
    part+='|(OUT|SITE|LAUNCHER|PREFLIGHT|CRASHES|STOPS|LEAST|ANSWER|PAUSE|WORKERS|TASKS_PER_NODE'
    part+='|SWEEP|CONFIG|BATCH|STEPS)$'
    for name in $(compgen -e | sort); do
        [[ $name =~ ^($part) ]] || continue
        [[ ! ${name,,} =~ key|token|jwt|secret|pass|pwd|cred|auth|cookie ]] || continue
        [[ ${!name} == *://*@* ]] || printf '%s=%q\n' "$name" "${!name}"
    done
}

# host1:4,host2:3 for horovodrun, of the tasks of the nodes as Slurm writes them
hosts() {
    local each
    each=$(counts "$1")
    paste -d : <(scontrol show hostnames "$SLURM_JOB_NODELIST") - <<<"$each" | paste -sd ,
}

# One line a node, of what Slurm writes as 4,3 or 4(x2),3
counts() {
    tr , '\n' <<<"$1" | awk -F '[(x)]+' '{ for (i = 0; i < ($2 ? $2 : 1); i++) print $1 }'
}
