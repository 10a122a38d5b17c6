#!/bin/sh
# Runs the one-shot tasks of a file on any build server: a verdict per task, JUnit XML, a Markdown summary and a
# folder of artifacts for each. Needs claudedo and claude in PATH, and what claude needs to log in
# (ANTHROPIC_API_KEY, say). Leaves nothing behind but the reports and, with --push, the branches.
#
# usage: run.sh [TASKS.toml [OPTIONS of `claudedo queue run`]], in a git repository
#
#   REPORTS        where the reports go      (default: claudedo-report, here)
#   JOBS           how many run at a time    (default: 2)
#   ALLOWED_TOOLS  what may be used without asking, as in "Bash(make *),WebFetch"
#   KEEP=1         leave worktrees, branches and state for a look; says where
set -eu

tasks=${1:-tasks.toml}
[ $# -eq 0 ] || shift
reports=${REPORTS:-claudedo-report}
mkdir -p "$reports"

CLAUDEDO_HOME=$(mktemp -d "${TMPDIR:-/tmp}/claudedo.XXXXXX")
export CLAUDEDO_HOME

leave() {
    if [ -n "${KEEP:-}" ]; then
        echo "Kept: CLAUDEDO_HOME=$CLAUDEDO_HOME" >&2
        claudedo worker stop >/dev/null || :
        return
    fi
    for task in $(claudedo queue ls --quiet); do # what they did is in the artifacts
        claudedo rm --force "$task" >/dev/null || :
    done
    claudedo uninstall --yes >/dev/null || :
}
trap leave EXIT

claudedo queue add --file "$tasks" ${ALLOWED_TOOLS:+-- --allowedTools "$ALLOWED_TOOLS"}

# In the background, because a shell that waits for a command in the foreground passes no signal on to it.
claudedo queue run --trust --jobs "${JOBS:-2}" --junit "$reports/junit.xml" --summary "$reports/summary.md" --artifacts "$reports/tasks" "$@" &
run=$!
trap 'kill -s TERM "$run" 2>/dev/null || :' HUP INT TERM
while :; do
    status=0
    wait "$run" || status=$?
    kill -0 "$run" 2>/dev/null || break # else it was the signal that ended the wait
done
exit "$status"
