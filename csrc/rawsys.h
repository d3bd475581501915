/*
 * Raw system calls.
 *
 * For code that runs between clone and execve, where the C library may not be called: another thread of the parent may
 * have held any of its locks, and errno belongs to somebody else. Each call returns what the kernel returned: >= 0 or
 * -errno. Knows three architectures by their instruction; elsewhere it borrows syscall(2) and gives errno back, and children
 * are copies of the parent only.
 */
#ifndef NSNET_RAWSYS_H
#define NSNET_RAWSYS_H

#include <errno.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

static inline long raw_syscall6(long number, long a, long b, long c, long d, long e, long f)
{
#if defined(__x86_64__)
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "0"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
#elif defined(__aarch64__)
	register long x8 __asm__("x8") = number;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	register long x5 __asm__("x5") = f;

	__asm__ volatile("svc #0"
			 : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
			 : "memory", "cc");
	return x0;
#elif defined(__riscv) && __riscv_xlen == 64
	register long a7 __asm__("a7") = number;
	register long a0 __asm__("a0") = a;
	register long a1 __asm__("a1") = b;
	register long a2 __asm__("a2") = c;
	register long a3 __asm__("a3") = d;
	register long a4 __asm__("a4") = e;
	register long a5 __asm__("a5") = f;

	__asm__ volatile("ecall"
			 : "+r"(a0)
			 : "r"(a7), "r"(a1), "r"(a2), "r"(a3), "r"(a4), "r"(a5)
			 : "memory");
	return a0;
#else
	int saved = errno;
	long result = syscall(number, a, b, c, d, e, f);

	if (result < 0)
		result = -errno;
	errno = saved;
	return result;
#endif
}

/*
 * clone3 that shares the memory: the child starts `run(argument)` on the stack that `args` names and never comes back. And the
 * entry of a program that has no C library: it calls nsnet_image_main with the stack as the kernel made it.
 */
#if defined(__x86_64__)
#define RAW_HAS_IMAGE
static inline long raw_clone_vm(void *args, long size, void (*run)(void *), void *argument)
{
	long result;

	__asm__ volatile("syscall\n\t"
			 "test %%rax, %%rax\n\t"
			 "jnz 1f\n\t"
			 "mov %[argument], %%rdi\n\t"
			 "call *%[run]\n\t"
			 "hlt\n"
			 "1:"
			 : "=a"(result)
			 : "0"((long)SYS_clone3), "D"(args), "S"(size), [run] "r"(run), [argument] "r"(argument)
			 : "rcx", "r11", "memory");
	return result;
}
#define RAW_IMAGE_ENTRY \
	".pushsection .text\n.globl nsnet_image\n.hidden nsnet_image\n.type nsnet_image, @function\nnsnet_image:\n" \
	"	xor %ebp, %ebp\n	mov %rsp, %rdi\n	and $-16, %rsp\n	call nsnet_image_main\n	hlt\n" \
	".size nsnet_image, . - nsnet_image\n.popsection\n"
#elif defined(__aarch64__)
#define RAW_HAS_IMAGE
static inline long raw_clone_vm(void *args, long size, void (*run)(void *), void *argument)
{
	register long x8 __asm__("x8") = SYS_clone3;
	register long x0 __asm__("x0") = (long)args;
	register long x1 __asm__("x1") = size;

	__asm__ volatile("svc #0\n\t"
			 "cbnz x0, 1f\n\t"
			 "mov x0, %[argument]\n\t"
			 "blr %[run]\n\t"
			 "brk #0\n"
			 "1:"
			 : "+r"(x0)
			 : "r"(x8), "r"(x1), [run] "r"(run), [argument] "r"(argument)
			 : "x30", "memory", "cc");
	return x0;
}
#define RAW_IMAGE_ENTRY \
	".pushsection .text\n.globl nsnet_image\n.hidden nsnet_image\n.type nsnet_image, %function\nnsnet_image:\n" \
	"	mov x29, #0\n	mov x30, #0\n	mov x0, sp\n	bl nsnet_image_main\n	brk #0\n" \
	".size nsnet_image, . - nsnet_image\n.popsection\n"
#elif defined(__riscv) && __riscv_xlen == 64
#define RAW_HAS_IMAGE
static inline long raw_clone_vm(void *args, long size, void (*run)(void *), void *argument)
{
	register long a7 __asm__("a7") = SYS_clone3;
	register long a0 __asm__("a0") = (long)args;
	register long a1 __asm__("a1") = size;

	__asm__ volatile("ecall\n\t"
			 "bnez a0, 1f\n\t"
			 "mv a0, %[argument]\n\t"
			 "jalr %[run]\n\t"
			 "ebreak\n"
			 "1:"
			 : "+r"(a0)
			 : "r"(a7), "r"(a1), [run] "r"(run), [argument] "r"(argument)
			 : "ra", "memory");
	return a0;
}
#define RAW_IMAGE_ENTRY \
	".pushsection .text\n.globl nsnet_image\n.hidden nsnet_image\n.type nsnet_image, @function\nnsnet_image:\n" \
	"	mv a0, sp\n	andi sp, sp, -16\n	call nsnet_image_main\n	ebreak\n" \
	".size nsnet_image, . - nsnet_image\n.popsection\n"
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#undef RAW_HAS_IMAGE		/* their code is everywhere and wants its library */
#endif

#define RAW_ARG(x) ((long)(uintptr_t)(x))
#define raw_syscall0(n) raw_syscall6((n), 0, 0, 0, 0, 0, 0)
#define raw_syscall1(n, a) raw_syscall6((n), RAW_ARG(a), 0, 0, 0, 0, 0)
#define raw_syscall2(n, a, b) raw_syscall6((n), RAW_ARG(a), RAW_ARG(b), 0, 0, 0, 0)
#define raw_syscall3(n, a, b, c) raw_syscall6((n), RAW_ARG(a), RAW_ARG(b), RAW_ARG(c), 0, 0, 0)
#define raw_syscall4(n, a, b, c, d) raw_syscall6((n), RAW_ARG(a), RAW_ARG(b), RAW_ARG(c), RAW_ARG(d), 0, 0)
#define raw_syscall5(n, a, b, c, d, e) \
	raw_syscall6((n), RAW_ARG(a), RAW_ARG(b), RAW_ARG(c), RAW_ARG(d), RAW_ARG(e), 0)

#endif
