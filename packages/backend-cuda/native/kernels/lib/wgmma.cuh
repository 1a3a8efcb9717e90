// What only sm_90a has: barriers in shared memory that copies arrive at (mbarrier), copies of tiles by tensor map (TMA), and products
// of a warpgroup, 128 threads, whose operands lie in shared memory (wgmma). One function a PTX instruction.
//
// A tile of ROWS x (64 PANELS) elements of 16 bits is PANELS panels, one after the other, each ROWS rows of 128 bytes with the 128-byte
// swizzle: chunk c of 16 bytes of row r lies where chunk c ^ r % 8 would.
#pragma once

#include <cuda.h>

#include "dtype.cuh"

#ifdef FA_EMULATED
#include "../../emulate/hopper.h"
#endif

namespace fa {

constexpr int PANEL_ELEMS = 64, PANEL_ROW_BYTES = 128;
using Barrier = u64;

#ifdef FA_EMULATED

using namespace emulate::sm90a;
template <class T, int N>
using Wgmma = emulate::Wgmma<std::is_same_v<T, Float16>, N>;

FA_DEVICE u8* tiles_base() { return shared_base(); }
FA_DEVICE void keep_apart(u64&) {}
FA_DEVICE float reciprocal_approx(float x) { return 1.f / x; }
FA_DEVICE float log2_approx(float x) { return log2f(x); }
FA_DEVICE void store16(void* to_gmem, const u32 (&words)[4]) { __builtin_memcpy(to_gmem, words, 16); }
FA_DEVICE u32 add_zero_times(u32 x, u32 sum, Float16) { return emulate::add_zero_times(x, sum, 0x7c00); }
FA_DEVICE u32 add_zero_times(u32 x, u32 sum, Bfloat16) { return emulate::add_zero_times(x, sum, 0x7f80); }

#else

/** Dynamic shared memory of the block; tiles begin at multiples of 1024 bytes. */
FA_DEVICE u8* tiles_base() {
  extern __shared__ __align__(1024) u8 tiles_smem[];
  return tiles_smem;
}

FA_DEVICE u32 smem_of(const void* pointer) { return static_cast<u32>(__cvta_generic_to_shared(pointer)); }

// ---- mbarrier: a phase is over when `arrivals` have come and all bytes that were expected. Waiting for parity 0 of a new one waits
// for its first phase; waiting for parity 1 does not wait at all.

FA_DEVICE void barrier_init(Barrier& barrier, u32 arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(smem_of(&barrier)), "r"(arrivals) : "memory");
}
/** What barrier_init wrote is seen by copies; other threads need a block barrier. */
FA_DEVICE void barrier_init_done() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
FA_DEVICE void barrier_arrive(Barrier& barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(smem_of(&barrier)) : "memory");
}
FA_DEVICE void barrier_arrive_expecting(Barrier& barrier, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(smem_of(&barrier)), "r"(bytes) : "memory");
}
FA_DEVICE void barrier_wait(Barrier& barrier, u32 parity) {
  asm volatile(
      "{\n.reg .pred done;\nAGAIN:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@done bra DONE;\nbra AGAIN;\nDONE:\n}" ::"r"(
          smem_of(&barrier)),
      "r"(parity)
      : "memory");
}

/** Waits for `threads` threads, those that only arrive included. Barrier 0 is __syncthreads'. */
FA_DEVICE void named_sync(int barrier, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
FA_DEVICE void named_arrive(int barrier, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
/** Waits, and says whether any thread brought true. */
FA_DEVICE bool named_or(int barrier, int threads, bool value) {
  u32 any;
  asm volatile(
      "{\n.reg .pred mine, all;\nsetp.ne.u32 mine, %3, 0;\nbar.red.or.pred all, %1, %2, mine;\nselp.u32 %0, 1, 0, all;\n}"
      : "=r"(any)
      : "r"(barrier), "r"(threads), "r"(static_cast<u32>(value))
      : "memory");
  return any != 0;
}

// ---- TMA

/** Box [64, rows] of a tensor [dim, rows, heads, batches] to shared memory; zeros for what is out of bounds. */
FA_DEVICE void tma_load(void* to_smem, const CUtensorMap& map, int column, int row, int head, int batch, Barrier& barrier) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}], [%6];" ::"r"(
          smem_of(to_smem)),
      "l"(&map), "r"(column), "r"(row), "r"(head), "r"(batch), "r"(smem_of(&barrier))
      : "memory");
}
/** The same box to the L2 cache. */
FA_DEVICE void tma_prefetch(const CUtensorMap& map, int column, int row, int head, int batch) {
  asm volatile("cp.async.bulk.prefetch.tensor.4d.L2.global.tile [%0, {%1, %2, %3, %4}];" ::"l"(&map), "r"(column), "r"(row),
               "r"(head), "r"(batch)
               : "memory");
}
/** What this thread wrote to shared memory is seen by wgmma and TMA of threads that a barrier tells. */
FA_DEVICE void fence_for_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

/** Registers a thread of this warpgroup, which all of its warps ask for. */
template <int N>
FA_DEVICE void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}
template <int N>
FA_DEVICE void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}

// ---- wgmma: sums [64, N] += a [64, 16] b [16, N], issued and later waited for. Thread t of the warpgroup, g = t % 32 / 4, has rows
// 16 (t / 32) + g and + 8, of columns 8 n + 2 (t % 4) and the next: sums[4 n ... 4 n + 3] are (g, first), (g, second), (g + 8, ...).

/** Registers that were written are seen by the products issued next. */
FA_DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
FA_DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/** Waits until at most PENDING groups of products are under way. */
template <int PENDING>
FA_DEVICE void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

/**
 * Where a panel lies, as wgmma takes it. Advance it by bytes / 16: 2 is 16 columns, PANEL_ROW_BYTES / 16 a row.
 * @param panelBytes from a panel to the next, where columns are what the product is long along (b of a b); else not read
 */
FA_DEVICE u64 descriptor(const void* panel_smem, u32 panelBytes) {
  constexpr u64 EIGHT_ROWS = 8 * PANEL_ROW_BYTES >> 4, SWIZZLE_128 = 1;
  return static_cast<u64>((smem_of(panel_smem) & 0x3ffff) >> 4) | static_cast<u64>(panelBytes >> 4) << 16 | EIGHT_ROWS << 32 |
         SWIZZLE_128 << 62;
}

template <class T, int N>
struct Wgmma;

#define FA_LIST_16 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define FA_LIST_32 FA_LIST_16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define FA_LIST_40 FA_LIST_32 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define FA_LIST_48 FA_LIST_40 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define FA_LIST_56 FA_LIST_48 ", %48, %49, %50, %51, %52, %53, %54, %55"
#define FA_LIST_64 FA_LIST_56 ", %56, %57, %58, %59, %60, %61, %62, %63"
#define FA_LIST_72 FA_LIST_64 ", %64, %65, %66, %67, %68, %69, %70, %71"
#define FA_LIST_80 FA_LIST_72 ", %72, %73, %74, %75, %76, %77, %78, %79"
#define FA_LIST_88 FA_LIST_80 ", %80, %81, %82, %83, %84, %85, %86, %87"
#define FA_LIST_96 FA_LIST_88 ", %88, %89, %90, %91, %92, %93, %94, %95"
#define FA_LIST_128                                                                                                       \
  FA_LIST_96 ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, " \
             "%114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"

#define FA_SUMS_8(n) \
  "+f"(d[n]), "+f"(d[n + 1]), "+f"(d[n + 2]), "+f"(d[n + 3]), "+f"(d[n + 4]), "+f"(d[n + 5]), "+f"(d[n + 6]), "+f"(d[n + 7])
#define FA_SUMS_16 FA_SUMS_8(0), FA_SUMS_8(8)
#define FA_SUMS_32 FA_SUMS_16, FA_SUMS_8(16), FA_SUMS_8(24)
#define FA_SUMS_40 FA_SUMS_32, FA_SUMS_8(32)
#define FA_SUMS_48 FA_SUMS_40, FA_SUMS_8(40)
#define FA_SUMS_56 FA_SUMS_48, FA_SUMS_8(48)
#define FA_SUMS_64 FA_SUMS_56, FA_SUMS_8(56)
#define FA_SUMS_72 FA_SUMS_64, FA_SUMS_8(64)
#define FA_SUMS_80 FA_SUMS_72, FA_SUMS_8(72)
#define FA_SUMS_88 FA_SUMS_80, FA_SUMS_8(80)
#define FA_SUMS_96 FA_SUMS_88, FA_SUMS_8(88)
#define FA_SUMS_128 FA_SUMS_96, FA_SUMS_8(96), FA_SUMS_8(104), FA_SUMS_8(112), FA_SUMS_8(120)

/** `rows`: d (+)= a b^T, both K-major in shared memory; `columns`: d += a b, a in registers, b with K along its rows. */
#define FA_WGMMA(TYPE, NAME, N, SUMS, O0, O1, O2, O3, O4)                                                                    \
  template <>                                                                                                                \
  struct Wgmma<TYPE, N> {                                                                                                    \
    static FA_DEVICE void rows(float (&d)[SUMS], u64 a, u64 b, bool add) {                                                   \
      asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, " O2 ", 0;\n"                                                       \
                   "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." NAME "." NAME " {" FA_LIST_##SUMS "}, " O0 ", " O1      \
                   ", add, 1, 1, 0, 0;\n}"                                                                                   \
                   : FA_SUMS_##SUMS                                                                                          \
                   : "l"(a), "l"(b), "r"(static_cast<int>(add)));                                                            \
    }                                                                                                                        \
    static FA_DEVICE void columns(float (&d)[SUMS], u32 a0, u32 a1, u32 a2, u32 a3, u64 b) {                                 \
      asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." NAME "." NAME " {" FA_LIST_##SUMS "}, {" O0 ", " O1     \
                   ", " O2 ", " O3 "}, " O4 ", 1, 1, 1, 1;"                                                                  \
                   : FA_SUMS_##SUMS                                                                                          \
                   : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b));                                                            \
    }                                                                                                                        \
  };
#define FA_WGMMA_BOTH(...) FA_WGMMA(Float16, "f16", __VA_ARGS__) FA_WGMMA(Bfloat16, "bf16", __VA_ARGS__)
FA_WGMMA_BOTH(32, 16, "%16", "%17", "%18", "%19", "%20")
FA_WGMMA_BOTH(64, 32, "%32", "%33", "%34", "%35", "%36")
FA_WGMMA_BOTH(80, 40, "%40", "%41", "%42", "%43", "%44")
FA_WGMMA_BOTH(96, 48, "%48", "%49", "%50", "%51", "%52")
FA_WGMMA_BOTH(112, 56, "%56", "%57", "%58", "%59", "%60")
FA_WGMMA_BOTH(128, 64, "%64", "%65", "%66", "%67", "%68")
FA_WGMMA_BOTH(144, 72, "%72", "%73", "%74", "%75", "%76")
FA_WGMMA_BOTH(160, 80, "%80", "%81", "%82", "%83", "%84")
FA_WGMMA_BOTH(176, 88, "%88", "%89", "%90", "%91", "%92")
FA_WGMMA_BOTH(192, 96, "%96", "%97", "%98", "%99", "%100")
FA_WGMMA_BOTH(256, 128, "%128", "%129", "%130", "%131", "%132")
#undef FA_WGMMA_BOTH
#undef FA_WGMMA

/** What is made from x is made again each time, and not kept in registers. */
FA_DEVICE void keep_apart(u64& x) { asm volatile("" : "+l"(x)); }
/** One instruction each, wrong by 2^-22 or less. */
FA_DEVICE float reciprocal_approx(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
FA_DEVICE float log2_approx(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
/** 16 bytes in one transaction, which an assignment is not always compiled to. */
FA_DEVICE void store16(void* to_gmem, const u32 (&words)[4]) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(to_gmem), "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3])
               : "memory");
}

/** 0 x + sum for two elements: stays 0 while each x is finite, and is NaN ever after. */
FA_DEVICE u32 add_zero_times(u32 x, u32 sum, Float16) {
  asm("fma.rn.f16x2 %0, %1, %2, %0;" : "+r"(sum) : "r"(x), "r"(0));
  return sum;
}
FA_DEVICE u32 add_zero_times(u32 x, u32 sum, Bfloat16) {
  asm("fma.rn.bf16x2 %0, %1, %2, %0;" : "+r"(sum) : "r"(x), "r"(0));
  return sum;
}

#endif

}  // namespace fa
