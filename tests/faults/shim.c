/* Counts what a process does to certain files, and makes one such operation fail.
 *
 * Preloaded (LD_PRELOAD), it does nothing until faults_arm() is called. Reading is not counted, nor
 * what is written through a memory map or by the C library's own buffers (fwrite). Linux only. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum action { COUNT, KILL, EIO_ONCE, FULL, SHORT };

static char where[PATH_MAX];
static enum action action;
static long fail_at;
static int log_fd = -1;
static atomic_long operations;

#define REAL(name)                                                   \
  ({                                                                 \
    static __typeof__(&name) real_##name;                            \
    if (!real_##name) real_##name = dlsym(RTLD_NEXT, #name);         \
    real_##name;                                                     \
  })

/* From here on, operations on paths that match `pattern` are counted from 1, and logged if `log` is
 * a path; in a pattern, * stands for anything. `what` happens at number `at`, 0 for never: "kill"
 * (SIGKILL), "eio" (that one fails), "full" (that one and all later ones that take room fail with
 * ENOSPC), "short" (only writes are counted; that one writes half, then the disk is full). */
void faults_arm(const char *pattern, const char *what, long at, const char *log) {
  snprintf(where, sizeof where, "%s", pattern);
  fail_at = at;
  action = !strcmp(what, "kill")    ? KILL
           : !strcmp(what, "eio")   ? EIO_ONCE
           : !strcmp(what, "full")  ? FULL
           : !strcmp(what, "short") ? SHORT
                                    : COUNT;
  atomic_store(&operations, 0);
  if (log && *log) log_fd = REAL(open)(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
}

static void note(const char *format, ...) {
  char line[2 * PATH_MAX + 64];
  va_list arguments;
  if (log_fd < 0) return;
  va_start(arguments, format);
  int length = vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  if (length > 0) (void)!REAL(write)(log_fd, line, length);
}

/* Puts a line between those of the operations. */
void faults_note(const char *text) { note("0\t%s\t\t\t0\n", text); }

static bool counts(const char *path) { return !fnmatch(where, path, 0); }

static bool path_of(int fd, char *path) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, PATH_MAX - 1);
  if (length < 0) return false;
  path[length] = '\0';
  return true;
}

static bool absolute(int folder_fd, const char *path, char *whole) {
  size_t length = 0;
  if (!path) return false;
  if (*path != '/') {
    if (folder_fd == AT_FDCWD ? !getcwd(whole, PATH_MAX) : !path_of(folder_fd, whole)) return false;
    length = strlen(whole);
    whole[length++] = '/';
  }
  if (length + strlen(path) + 1 > PATH_MAX) return false;
  strcpy(whole + length, path);
  return true;
}

/* Counts an operation, if its path counts; returns the error that it is to end with, or 0. `halved`
 * is given for what can be done by half, and told whether to. */
static int trip(const char *name, const char *path, const char *other, size_t size, bool takes_room,
                bool *halved) {
  if (!counts(path) && !counts(other)) return 0;
  bool counted = action != SHORT || (halved && size > 1);
  long number = counted ? atomic_fetch_add(&operations, 1) + 1 : atomic_load(&operations);
  note("%ld\t%s\t%s\t%s\t%zu\n", counted ? number : 0, name, path, other, size);
  if (!fail_at || number < fail_at) return 0;
  if (number > fail_at || !counted) return action >= FULL && takes_room ? ENOSPC : 0;
  if (action == KILL) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
  }
  if (action == EIO_ONCE) return EIO;
  if (action == SHORT) *halved = true;
  return action == FULL ? ENOSPC : 0;
}

static int trip_path(const char *name, int folder_fd, const char *path, bool takes_room) {
  char whole[PATH_MAX];
  int error = 0, before = errno;
  if (*where && absolute(folder_fd, path, whole))
    error = trip(name, whole, "", 0, takes_room, NULL);
  errno = error ? error : before;
  return error;
}

static int trip_two(const char *name, int from_fd, const char *from, int to_fd, const char *to) {
  char whole[PATH_MAX], other[PATH_MAX];
  int error = 0, before = errno;
  if (*where && absolute(from_fd, from, whole) && absolute(to_fd, to, other)) {
    error = trip(name, whole, other, 0, false, NULL);
  }
  errno = error ? error : before;
  return error;
}

static int trip_fd(const char *name, int fd, size_t size, bool takes_room, bool *halved) {
  char path[PATH_MAX];
  int error = 0, before = errno;
  if (*where && fd != log_fd && path_of(fd, path))
    error = trip(name, path, "", size, takes_room, halved);
  errno = error ? error : before;
  return error;
}

/* Opening. */

#define OPENS(name, folder_fd, call, ...)                                                   \
  mode_t mode = 0;                                                                          \
  if ((flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE) {                              \
    va_list rest;                                                                           \
    va_start(rest, flags);                                                                  \
    mode = va_arg(rest, mode_t);                                                            \
    va_end(rest);                                                                           \
  }                                                                                         \
  if ((flags & (O_WRONLY | O_RDWR)) && trip_path(name, folder_fd, path, flags & O_CREAT))   \
    return -1;                                                                              \
  return REAL(call)(__VA_ARGS__, flags, mode)

int open(const char *path, int flags, ...) { OPENS("open", AT_FDCWD, open, path); }
int open64(const char *path, int flags, ...) { OPENS("open", AT_FDCWD, open64, path); }
int openat(int fd, const char *path, int flags, ...) { OPENS("open", fd, openat, fd, path); }
int openat64(int fd, const char *path, int flags, ...) { OPENS("open", fd, openat64, fd, path); }

#define CREATES(call)                                                \
  int call(const char *path, mode_t mode) {                          \
    if (trip_path("open", AT_FDCWD, path, true)) return -1;          \
    return REAL(call)(path, mode);                                   \
  }
CREATES(creat)
CREATES(creat64)

#define STREAMS(call)                                                                             \
  FILE *call(const char *path, const char *mode) {                                                \
    if (strpbrk(mode, "wa+") && trip_path("open", AT_FDCWD, path, *mode != 'r')) return NULL;     \
    return REAL(call)(path, mode);                                                                \
  }
STREAMS(fopen)
STREAMS(fopen64)

/* Writing. */

ssize_t write(int fd, const void *data, size_t size) {
  bool halved = false;
  if (trip_fd("write", fd, size, true, &halved)) return -1;
  return REAL(write)(fd, data, halved ? size / 2 : size);
}

#define WRITES_AT(call, offset_type)                                                \
  ssize_t call(int fd, const void *data, size_t size, offset_type offset) {         \
    bool halved = false;                                                            \
    if (trip_fd("write", fd, size, true, &halved)) return -1;                       \
    return REAL(call)(fd, data, halved ? size / 2 : size, offset);                  \
  }
WRITES_AT(pwrite, off_t)
WRITES_AT(pwrite64, off64_t)

/* Half of several pieces is the first piece, or half of it if there is but one. */
#define WRITES_PIECES(call, rest, ...)                                                       \
  ssize_t call(int fd, const struct iovec *pieces, int number rest) {                        \
    bool halved = false;                                                                     \
    size_t size = 0;                                                                         \
    for (int i = 0; i < number; i++) size += pieces[i].iov_len;                              \
    if (trip_fd("write", fd, size, true, &halved)) return -1;                                \
    struct iovec first = pieces[0];                                                          \
    if (halved && (number = 1, first.iov_len == size)) first.iov_len /= 2;                   \
    return REAL(call)(fd, halved ? &first : pieces, number __VA_ARGS__);                     \
  }
#define COMMA ,
WRITES_PIECES(writev, , )
WRITES_PIECES(pwritev, COMMA off_t offset, COMMA offset)
WRITES_PIECES(pwritev64, COMMA off64_t offset, COMMA offset)
WRITES_PIECES(pwritev2, COMMA off_t offset COMMA int flags, COMMA offset COMMA flags)
WRITES_PIECES(pwritev64v2, COMMA off64_t offset COMMA int flags, COMMA offset COMMA flags)

#define COPIES(call, offset_type)                                                   \
  ssize_t call(int to, int from, offset_type *offset, size_t size) {                \
    bool halved = false;                                                            \
    if (trip_fd("write", to, size, true, &halved)) return -1;                       \
    return REAL(call)(to, from, offset, halved ? size / 2 : size);                  \
  }
COPIES(sendfile, off_t)
COPIES(sendfile64, off64_t)

ssize_t copy_file_range(int from, off64_t *from_offset, int to, off64_t *to_offset, size_t size,
                        unsigned flags) {
  bool halved = false;
  if (trip_fd("write", to, size, true, &halved)) return -1;
  return REAL(copy_file_range)(from, from_offset, to, to_offset, halved ? size / 2 : size, flags);
}

/* Making durable, and sizes. */

#define ON_FD(name, call, room, parameters, ...)                     \
  int call parameters {                                              \
    if (trip_fd(name, fd, 0, room, NULL)) return -1;                 \
    return REAL(call)(__VA_ARGS__);                                  \
  }
ON_FD("fsync", fsync, false, (int fd), fd)
ON_FD("fsync", fdatasync, false, (int fd), fd)
ON_FD("ftruncate", ftruncate, true, (int fd, off_t size), fd, size)
ON_FD("ftruncate", ftruncate64, true, (int fd, off64_t size), fd, size)
ON_FD("fallocate", fallocate, true, (int fd, int mode, off_t at, off_t size), fd, mode, at, size)
ON_FD("chmod", fchmod, false, (int fd, mode_t mode), fd, mode)

int posix_fallocate(int fd, off_t at, off_t size) {
  int error = trip_fd("fallocate", fd, 0, true, NULL);
  return error ? error : REAL(posix_fallocate)(fd, at, size);
}

/* Names. */

#define ON_PATH(name, call, folder_fd, room, parameters, ...)        \
  int call parameters {                                              \
    if (trip_path(name, folder_fd, path, room)) return -1;           \
    return REAL(call)(__VA_ARGS__);                                  \
  }
ON_PATH("truncate", truncate, AT_FDCWD, true, (const char *path, off_t size), path, size)
ON_PATH("mkdir", mkdir, AT_FDCWD, true, (const char *path, mode_t mode), path, mode)
ON_PATH("mkdir", mkdirat, fd, true, (int fd, const char *path, mode_t mode), fd, path, mode)
ON_PATH("unlink", unlink, AT_FDCWD, false, (const char *path), path)
ON_PATH("unlink", unlinkat, fd, false, (int fd, const char *path, int flags), fd, path, flags)
ON_PATH("rmdir", rmdir, AT_FDCWD, false, (const char *path), path)
ON_PATH("chmod", chmod, AT_FDCWD, false, (const char *path, mode_t mode), path, mode)
ON_PATH("symlink", symlink, AT_FDCWD, true, (const char *target, const char *path), target, path)

#define ON_TWO(name, call, from_fd, to_fd, parameters, ...)          \
  int call parameters {                                              \
    if (trip_two(name, from_fd, from, to_fd, to)) return -1;         \
    return REAL(call)(__VA_ARGS__);                                  \
  }
ON_TWO("rename", rename, AT_FDCWD, AT_FDCWD, (const char *from, const char *to), from, to)
ON_TWO("rename", renameat, a, b, (int a, const char *from, int b, const char *to), a, from, b, to)
ON_TWO("rename", renameat2, a, b,
       (int a, const char *from, int b, const char *to, unsigned flags), a, from, b, to, flags)
ON_TWO("link", link, AT_FDCWD, AT_FDCWD, (const char *from, const char *to), from, to)
ON_TWO("link", linkat, a, b, (int a, const char *from, int b, const char *to, int flags), a, from,
       b, to, flags)
