/*
 * The C interface of the kernels: what addon.cc and harness/ call. Nothing below it knows Node.
 *
 * Numbers come as doubles, which hold integers up to 2^53 and device pointers exactly, so that JavaScript packs an argument list
 * by writing into a Float64Array. src/abi.ts names the same places; a test compares the two.
 */
#ifndef FA_LAUNCH_H
#define FA_LAUNCH_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/** What a call gives. */
enum FaStatus {
  FA_OK = 0,
  /** No memory; nothing has changed. */
  FA_OUT_OF_MEMORY = 1,
  /** The device's context is broken for good: this process cannot use it any more. */
  FA_DEAD = 2,
  /** Anything else; `fa_error` has the words. */
  FA_FAILED = 3
};

/** What there is on this machine. */
struct FaProbe {
  /** As CUDA counts them, 1000 major + 10 minor; driver 0: there is none. */
  int driver, runtime;
  int devices;
  /** Of the device asked for, if there is one: compute capability, multiprocessors, shared memory a block, memory. */
  int major, minor, processors, sharedBytes;
  /** Whether the addon has kernels for sm_90a and the device runs them: compute capability 9.0, and no other. */
  int sm90a;
  double memoryBytes;
  char name[256];
  /** Why the device cannot be asked, or "". */
  char error[256];
};
void fa_probe(int device, struct FaProbe* probe);

/** One device and one stream of it: work runs in the order in which it is given. Calls come from one thread at a time but fa_read_finish. */
struct FaInstance;
enum FaStatus fa_open(int device, struct FaInstance** instance, char error[256]);
/** Waits for what is under way. */
void fa_close(struct FaInstance* instance);
/** The last failure in words. */
const char* fa_error(const struct FaInstance* instance);
void* fa_stream(const struct FaInstance* instance);

enum FaStatus fa_allocate(struct FaInstance* instance, size_t bytes, void** pointer);
/** Takes effect after the work given before. */
enum FaStatus fa_free(struct FaInstance* instance, void* pointer);
enum FaStatus fa_fill(struct FaInstance* instance, void* pointer, int byte, size_t bytes);
/** `from` has been read when the call returns. */
enum FaStatus fa_upload(struct FaInstance* instance, void* to, const void* from, size_t bytes);

/** A copy to the host that is under way. With 0 bytes: all work given before. */
struct FaRead;
enum FaStatus fa_read_begin(struct FaInstance* instance, const void* from, size_t bytes, struct FaRead** read);
/** On any thread: waits, writes the bytes, and ends the read. `error` gets the words of a failure. */
enum FaStatus fa_read_finish(struct FaRead* read, void* to, char error[256]);

/** Dense bfloat16 multiply-adds of the tensor cores by mma.sync, in GFLOP/s. Waits. */
enum FaStatus fa_roof(struct FaInstance* instance, double* gflops);

/** Dtypes. */
enum FaDType { FA_FLOAT32 = 0, FA_FLOAT16 = 1, FA_BFLOAT16 = 2, FA_FLOAT8E4M3 = 3 };

enum FaOp { FA_OP_CAST = 0, FA_OP_FORWARD = 1, FA_OP_BACKWARD = 2, FA_OP_MATMUL = 3, FA_OP_COLUMN_SUMS = 4, FA_OP_GATHER = 5 };

/** y [elements] = x [elements] */
enum FaCast { FA_CAST_X, FA_CAST_Y, FA_CAST_FROM, FA_CAST_TO, FA_CAST_ELEMENTS, FA_CAST_SLOTS };

/** Families of attention kernels; rows of the table say which one runs. */
enum FaFamily { FA_GENERIC = 0, FA_HOPPER = 1, FA_DECODE = 2, FA_HOPPER_GENERAL = 3, FA_HOPPER_SHORT = 4 };

/** Forward and backward. A pointer 0: there is no such tensor. Strides are in elements. */
enum FaAttention {
  FA_Q,
  FA_K,
  FA_V,
  FA_OUT,
  FA_LSE,
  FA_BIAS,
  FA_MASK,
  FA_ALIBI,
  FA_SINKS,
  FA_DOUT,
  FA_DQ,
  FA_DK,
  FA_DV_OUT,
  FA_DBIAS,
  FA_DSINKS,
  /** Workspace: delta float32 [B, H, Sq]; with splits partial out float32 [splits, B, H, Sq, Dv] and lse [splits, B, H, Sq]. */
  FA_DELTA,
  FA_PARTIAL,
  FA_PARTIAL_LSE,
  FA_FAMILY,
  FA_DTYPE,
  FA_B,
  FA_H,
  FA_HKV,
  FA_SQ,
  FA_SKV,
  FA_D,
  FA_DV,
  FA_BSHD,
  FA_TILE_Q,
  FA_TILE_KV,
  FA_GROUP,
  FA_SPLITS,
  FA_SCALE,
  FA_SOFTCAP,
  FA_BAND_LO,
  FA_BAND_HI,
  FA_BIAS_DTYPE,
  FA_BIAS_BATCH,
  FA_BIAS_HEAD,
  FA_BIAS_ROW,
  FA_BIAS_COLUMN,
  FA_MASK_BATCH,
  FA_MASK_HEAD,
  FA_MASK_ROW,
  FA_MASK_COLUMN,
  FA_ALIBI_DTYPE,
  FA_ALIBI_PER_BATCH,
  FA_SINKS_DTYPE,
  FA_DROPOUT,
  FA_DROPOUT_THRESHOLD,
  FA_DROPOUT_SCALE,
  FA_DROPOUT_SEED_LOW,
  FA_DROPOUT_SEED_HIGH,
  FA_DROPOUT_OFFSET,
  FA_ATTENTION_SLOTS
};

/** c [M, N] = a [M, K] b [K, N] + bias [N]; element (i, j) of a matrix is at i row + j column. */
enum FaMatmul {
  FA_MATMUL_A,
  FA_MATMUL_A_ROW,
  FA_MATMUL_A_COLUMN,
  FA_MATMUL_B,
  FA_MATMUL_B_ROW,
  FA_MATMUL_B_COLUMN,
  FA_MATMUL_C,
  FA_MATMUL_C_ROW,
  FA_MATMUL_C_COLUMN,
  FA_MATMUL_BIAS,
  FA_MATMUL_M,
  FA_MATMUL_N,
  FA_MATMUL_K,
  FA_MATMUL_DTYPE,
  FA_MATMUL_SLOTS
};

/** sums [N] of the columns of x [M, N] */
enum FaColumnSums { FA_SUMS_X, FA_SUMS_OUT, FA_SUMS_M, FA_SUMS_N, FA_SUMS_DTYPE, FA_SUMS_SLOTS };

/** Rows of `width` bytes, copied from one pitch to another. */
enum FaGather {
  FA_GATHER_FROM,
  FA_GATHER_FROM_PITCH,
  FA_GATHER_TO,
  FA_GATHER_TO_PITCH,
  FA_GATHER_WIDTH,
  FA_GATHER_ROWS,
  FA_GATHER_SLOTS
};

/** Enqueues one operation. `slots` as the enumeration of the op has them. */
enum FaStatus fa_run(struct FaInstance* instance, enum FaOp op, const double* slots);

/** The kernel table, row by row: facts that src/kernels.ts has as well. 0 past the end. */
struct FaKernel {
  /** FA_OP_FORWARD or FA_OP_BACKWARD, and FaFamily */
  int op, family;
  int dtype, headDim;
  int tileQ, tileKV, threads, sharedBytes;
};
int fa_kernel(int n, struct FaKernel* kernel);

#ifdef __cplusplus
}
#endif

#endif
