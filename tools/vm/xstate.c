/*
 * Preloaded into linux.uml, so that it runs on CPUs whose register state is larger than it knows.
 *
 * User-Mode Linux 6.1 keeps the extended registers of its processes in an area of fixed size, which holds
 * them up to AVX-512 (HOST_XSTATE_SIZE in arch/x86/um). Reading them with a smaller buffer is allowed: the
 * kernel gives as much as fits. Writing them is not: it must be all that the CPU has, or the answer is
 * EFAULT (xstateregs_set in arch/x86/kernel/fpu/regset.c). With AMX the state is 11 KiB, every write fails,
 * and linux.uml stops at its first process. Here each write is padded with zeros to the CPU's own size: the
 * header that is written says what is in use, and what linux.uml does not know is never in use.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>

typedef long ptrace_function(enum __ptrace_request request, ...);

static char area[65536];

/* The size of the whole state on this CPU, as the first read with room to spare tells it. */
static size_t whole_size(ptrace_function *ptrace_of_libc, pid_t pid)
{
	static size_t size;

	if (size == 0) {
		struct iovec room = { area, sizeof(area) };

		if (ptrace_of_libc(PTRACE_GETREGSET, pid, (void *)NT_X86_XSTATE, &room) == 0)
			size = room.iov_len;
	}
	return size;
}

long ptrace(enum __ptrace_request request, ...)
{
	static ptrace_function *ptrace_of_libc;
	va_list arguments;

	va_start(arguments, request);
	pid_t pid = va_arg(arguments, pid_t);
	void *address = va_arg(arguments, void *);
	void *data = va_arg(arguments, void *);
	va_end(arguments);

	if (ptrace_of_libc == NULL)
		ptrace_of_libc = (ptrace_function *)dlsym(RTLD_NEXT, "ptrace");

	if (request == PTRACE_SETREGSET && (uintptr_t)address == NT_X86_XSTATE) {
		const struct iovec *given = data;
		struct iovec padded = { area, whole_size(ptrace_of_libc, pid) };

		if (given->iov_len < padded.iov_len) {
			memcpy(area, given->iov_base, given->iov_len);
			memset(area + given->iov_len, 0, padded.iov_len - given->iov_len);
			return ptrace_of_libc(request, pid, address, &padded);
		}
	}
	return ptrace_of_libc(request, pid, address, data);
}
