// All that depends on who reads the kernels: NVRTC, for a GPU, or any C++17 compiler, for the emulator of tests/cuda.
//
// Kernels use CUDA's own words where both readers know them (__global__, __shared__, threadIdx, __syncthreads,
// __shfl_sync, ...), and these wrappers of PTX instructions for the rest. No header of the CUDA toolkit is needed.
//
// CuPy compiles with -ftz=true: operators on float flush subnormal numbers to zero. `multiply`, `add` and `subtract`
// do not, and are never contracted; decoding, which is exact to the bit, uses only them.
#pragma once

namespace tilepress {

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;
using i64 = long long;

}  // namespace tilepress

#ifdef __CUDACC__

#define TILEPRESS_DEVICE __device__ __forceinline__
// Shared memory whose size the launch says.
#define TILEPRESS_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]

namespace tilepress {

TILEPRESS_DEVICE u32 bits_of_float(float value) {
    return __float_as_uint(value);
}
TILEPRESS_DEVICE float float_of_bits(u32 bits) {
    return __uint_as_float(bits);
}

TILEPRESS_DEVICE float multiply(float a, float b) {
    float result;
    asm("mul.rn.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
    return result;
}
TILEPRESS_DEVICE float add(float a, float b) {
    float result;
    asm("add.rn.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
    return result;
}
TILEPRESS_DEVICE float subtract(float a, float b) {
    float result;
    asm("sub.rn.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
    return result;
}

// Between float32 and the bits of 16-bit floats; to nearest, ties to even.
TILEPRESS_DEVICE float float_of_fp16(u16 bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}
TILEPRESS_DEVICE u16 fp16_of_float(float value) {
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
TILEPRESS_DEVICE u16 bf16_of_float(float value) {
    u16 bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

// Two 16-bit floats in a register, the first in the lower half.
TILEPRESS_DEVICE u32 fp16x2_of_floats(float first, float second) {
    u32 pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
    return pair;
}
TILEPRESS_DEVICE u32 bf16x2_of_floats(float first, float second) {
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
    return pair;
}
TILEPRESS_DEVICE u32 fp16x2_multiply_add(u32 a, u32 b, u32 c) {
    u32 result;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
    return result;
}
TILEPRESS_DEVICE u32 bf16x2_multiply_add(u32 a, u32 b, u32 c) {
    u32 result;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
    return result;
}

// sums[16 x 8] += a[16 x 16] * b[16 x 8], each lane of the warp holding its fragments of mma.m16n8k16.
TILEPRESS_DEVICE void fp16_mma(float (&sums)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
TILEPRESS_DEVICE void bf16_mma(float (&sums)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four 8 x 8 matrices of 16-bit values from shared memory: lane 8 i + j brings the address of row j of matrix i, 16
// bytes, and lane 4 g + t gets of matrix i values 2 t and 2 t + 1 of row g.
TILEPRESS_DEVICE void load_matrices(u32 (&words)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(static_cast<u32>(__cvta_generic_to_shared(row)))
                 : "memory");
}

// The same, each matrix transposed: lane 4 g + t gets of matrix i values g of rows 2 t and 2 t + 1.
TILEPRESS_DEVICE void load_matrices_transposed(u32 (&words)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(static_cast<u32>(__cvta_generic_to_shared(row)))
                 : "memory");
}

// 16 bytes from global to shared memory, both aligned; there after `copies_wait` and a barrier of those who read.
TILEPRESS_DEVICE void copy_async(void* shared, const void* global) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(static_cast<u32>(__cvta_generic_to_shared(shared))),
                 "l"(global)
                 : "memory");
}
// Ends a group of copies, which may be empty.
TILEPRESS_DEVICE void copies_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
// Waits for all of this thread's groups but the last `kOpen`.
template <int kOpen>
TILEPRESS_DEVICE void copies_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(kOpen) : "memory");
}

// Byte i of the result is the byte of (high, low) that nibble i of the selector names, 0 to 7.
TILEPRESS_DEVICE u32 select_bytes(u32 low, u32 high, u32 selector) {
    return __byte_perm(low, high, selector);
}
// Bits shift .. shift + 31 of (high, low), for shifts below 32.
TILEPRESS_DEVICE u32 shift_right(u32 low, u32 high, u32 shift) {
    return __funnelshift_r(low, high, shift);
}
// sum + the products of the four unsigned bytes of a and b.
TILEPRESS_DEVICE u32 dot_bytes(u32 a, u32 b, u32 sum) {
    u32 result;
    asm("dp4a.u32.u32 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(sum));
    return result;
}

}  // namespace tilepress

#else
#include "emulator.hpp"
#endif
