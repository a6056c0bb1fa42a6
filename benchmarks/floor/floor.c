/*
 * floor.c owns the program: the least that a WebSocket peer can do on Linux, which is epoll, recv,
 * send, OpenSSL when there is a certificate, and zlib when there are ticks. Every contestant is
 * compared with it, and it is the unchanging other end of the connection while one is measured.
 *
 *   floor server WORK --core N [--cert chain.pem --key key.pem] [--ticks FILE]
 *   floor client WORK --core N --port P [--ca ca.pem] [--conns N] [--depth N] [--window N]
 *                     [--ticks FILE]
 *
 * It speaks JSON lines on stdout. The server prints {"port": P, "pid": N}, answers "memory" lines and
 * ends when its stdin does. The client prints {"pid": N} and then answers the lines of client.c.
 */
#include "peer.h"

#include <openssl/err.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/epoll.h>
#include <sys/resource.h>

int epoll_fd = -1;

_Noreturn void die(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fprintf(stderr, "floor: ");
    vfprintf(stderr, format, args);
    fprintf(stderr, "\n");
    va_end(args);
    ERR_print_errors_fp(stderr);
    exit(1);
}

_Noreturn void die_errno(const char *what) { die("%s: %s", what, strerror(errno)); }

/* ---- Command line ----------------------------------------------------------------------------- */

static const char *text_option(int argc, char **argv, const char *name) {
    for (int i = 3; i + 1 < argc; i += 2)
        if (strcmp(argv[i], name) == 0) return argv[i + 1];
    return NULL;
}

static int number_option(int argc, char **argv, const char *name, int otherwise) {
    const char *text = text_option(argc, argv, name);
    return text == NULL ? otherwise : atoi(text);
}

static work_kind work_of(const char *name) {
    static const char *names[WORKS] = {"echo",    "feed",    "handshake", "broadcast",
                                       "inflate", "deflate", "connect",   "idle"};
    for (work_kind work = 0; work < WORKS; work++)
        if (strcmp(names[work], name) == 0) return work;
    die("no work %s", name);
}

int main(int argc, char **argv) {
    if (argc < 3) die("usage: floor server|client WORK [--option value]...");
    options o = {
        .is_server = strcmp(argv[1], "server") == 0,
        .work = work_of(argv[2]),
        .core = number_option(argc, argv, "--core", -1),
        .port = number_option(argc, argv, "--port", 0),
        .conns = number_option(argc, argv, "--conns", 1),
        .depth = number_option(argc, argv, "--depth", 1),
        .window = number_option(argc, argv, "--window", 0),
        .cert = text_option(argc, argv, "--cert"),
        .key = text_option(argc, argv, "--key"),
        .ca = text_option(argc, argv, "--ca"),
        .ticks = text_option(argc, argv, "--ticks"),
    };
    signal(SIGPIPE, SIG_IGN); /* OpenSSL writes without MSG_NOSIGNAL */
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    if (o.core >= 0) {
        cpu_set_t cores;
        CPU_ZERO(&cores);
        CPU_SET(o.core, &cores);
        if (sched_setaffinity(0, sizeof cores, &cores) != 0) die_errno("sched_setaffinity");
    }
    if (o.work == INFLATE || o.work == DEFLATE) load_ticks(o.ticks);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_fd < 0) die_errno("epoll_create1");
    return o.is_server ? run_server(&o) : run_client(&o);
}
