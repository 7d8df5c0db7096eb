/* run_guard.h - runs a command that doesn't outlive its launcher.
 *
 * Two processes stand between the launcher and the command. The outer one is the launcher's child and
 * passes on what it is told. The inner one is out of the launcher's reach: should the outer one be killed
 * before it could say a word, or the launcher go, it still ends the command, and whatever that has started
 * in its process group.
 *
 * SIGUSR2, which launchers pass on, asks the command to end (SIGTERM) and lets it take its time;
 * SIGTERM, by which launchers clear away, leaves it half a second.
 */
#ifndef DS_CLI_RUN_GUARD_H
#define DS_CLI_RUN_GUARD_H

/* The command's exit code; 126 or 127 when it can't be started; 1 when it was cleared away. After a signal
 * that killed the command, the same kills this process. */
int run_guard(char **command);

#endif
