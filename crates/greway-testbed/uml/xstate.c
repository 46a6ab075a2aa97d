/*
 * Why this exists: User Mode Linux 6.1 keeps a guest process's floating point state in a buffer that is
 * smaller than what the host's XSAVE needs on processors with AMX. Reading with a short buffer is allowed
 * (the host truncates); writing with one is refused with EFAULT (linux 6.18, arch/x86/kernel/fpu/regset.c
 * xstateregs_set: the length must be the full one), and the guest dies at its first context switch.
 *
 * Preloaded into linux.uml, this completes such a short image: the host's own full image first, the
 * caller's bytes laid over it, and the components that the caller's buffer does not reach marked unused.
 * On a host without AMX nothing is ever completed.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <dlfcn.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>

enum {
	GET_REGISTER_SET = 0x4204, /* PTRACE_GETREGSET */
	SET_REGISTER_SET = 0x4205, /* PTRACE_SETREGSET */
	X86_XSTATE = 0x202,        /* NT_X86_XSTATE */
	HEADER = 512,              /* XSTATE_BV lies behind the legacy FXSAVE area (Intel SDM 1, 13.4.2) */
	LARGEST = 64 * 1024,
};

/* The components (bits of XSTATE_BV) which lie wholly in the first `length` bytes of a standard image. */
static uint64_t reached(size_t length)
{
	uint64_t components = 3; /* x87 and SSE are the legacy area */
	for (unsigned i = 2; i < 63; i++) {
		unsigned size, offset, c, d;
		if (!__get_cpuid_count(0xd, i, &size, &offset, &c, &d))
			break;
		if (size && (size_t)offset + size <= length)
			components |= 1ull << i;
	}
	return components;
}

long ptrace(int request, ...)
{
	static long (*real)(int, ...);
	static unsigned char image[LARGEST] __attribute__((aligned(64)));
	va_list arguments;
	va_start(arguments, request);
	pid_t pid = va_arg(arguments, pid_t);
	void *address = va_arg(arguments, void *);
	void *data = va_arg(arguments, void *);
	va_end(arguments);

	if (!real)
		real = (long (*)(int, ...))dlsym(RTLD_NEXT, "ptrace");
	if (request != SET_REGISTER_SET || (uintptr_t)address != X86_XSTATE)
		return real(request, pid, address, data);

	const struct iovec *given = data;
	struct iovec full = { image, sizeof image };
	if (real(GET_REGISTER_SET, pid, address, &full) < 0)
		return -1;
	if (given->iov_len >= full.iov_len || given->iov_len < HEADER + 64)
		return real(request, pid, address, data);

	uint64_t used;
	memcpy(image, given->iov_base, given->iov_len);
	memcpy(&used, image + HEADER, sizeof used);
	used &= reached(given->iov_len);
	memcpy(image + HEADER, &used, sizeof used);
	return real(request, pid, address, &full);
}
