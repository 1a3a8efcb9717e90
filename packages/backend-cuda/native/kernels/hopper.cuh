// Attention forward for sm_90a: float16 and bfloat16, everything but bias and mask.
//
// A block stays on its multiprocessor and works off tiles of Br = 64 WARPGROUPS query rows of one head. Its warps have roles:
//
//   scheduler   one thread: draws tiles and copies q [Br, D]
//   producer    one thread: copies k [Bc, D] and v [Bc, Dv], from the last block of keys that the tile sees to the first
//   inspectors  two warps: in tiles that are done again, take NaN and Inf out of v where some pair is hidden
//   consumers   WARPGROUPS warpgroups of 64 rows each:
//
//     setup       m, l [64], acc [64, Dv]
//     scores      s [64, Bc] = program(q k^T), issued together with the accumulation of the block before
//     softmax     p [64, Bc] = 2^(s - m), l, while that accumulation runs
//     accumulate  acc [64, Dv] += dropout(p) v; what came before is rescaled where the max has grown much
//     finish      out = acc / l, lse = m + log l
//
// The blocks of all tiles of a block are one stream: the first scores of a tile are issued with the last accumulation of the tile
// before, so that tensor cores do not wait for its end. Where q has one place and keys are few, the tile before is ended while the
// next q comes instead. Warpgroups may take turns in issuing, so that one computes its softmax while another's products run. Where two
// blocks of threads share a multiprocessor they do without all that: each runs while the other waits.
//
// 0 times NaN is NaN, so v that is not finite reaches rows that do not see it, in blocks where some pair is hidden. Consumers notice
// at the end of a tile, and it is done again with care.
//
// Dao, "FlashAttention-2", 2023, algorithm 1; Shah et al., "FlashAttention-3", 2024, algorithm 2. The max lags behind by up to
// LAG: 2^LAG is held by every dtype, and most blocks need no rescaling.
#pragma once

#include "hopper_tile.h"
#include "lib/score.cuh"
#include "lib/wgmma.cuh"

namespace fa {

/** How the tiles of a problem are ordered and given out. */
struct Schedule {
  int rowBlocks, tiles;
  /** Heads whose tiles come together, those with most keys first: their keys fit the L2 cache. */
  int heads;
  /** Tiles given out beyond the first of each block; 0 before and after each launch. */
  unsigned* counter_gmem;
};

/** What is to be done next: a tile, or one of the two below. */
struct Work {
  int firstRow, head, batch;
  /** Where its first row lies in out and in lse, in elements. */
  i64 out, lse;
  /** How many tiles had their q loaded before. */
  u32 q;
  /** v is looked at before it is multiplied with. */
  bool careful;
  /** Said by inspectors: something was taken out of v. */
  bool unclean;
  /** Said by consumers: it has to be done again, with care. */
  bool again;
};
/** In place of a first row: to finish the tile before, and to end. */
constexpr int FLUSH = -1, END = -2;

/** As few as keep the producer from waiting for whoever finishes a tile. */
constexpr int WORK_SLOTS = 4;
constexpr int INSPECTOR_WARPS = 2, INSPECTORS = 32 * INSPECTOR_WARPS;
/** Named barriers; those from TURN_BARRIER on are one a warpgroup. */
constexpr int INSPECTORS_BARRIER = 1, TURN_BARRIER = 2;
/** In log2: how far the max may lag behind. */
constexpr float LAG = 8.f;
/** In place of what turns acc into out, which is not negative. */
constexpr float EMPTY = -1.f;
/** A max so far from 0, in log2, is subtracted from scores before anything is multiplied. */
constexpr float FAR = 4096.f;

template <class Tile>
struct HopperShared {
  u8 q[Tile::Q_STAGES][Tile::Q_BYTES];
  u8 k[Tile::STAGES][Tile::KV_BYTES];
  u8 v[Tile::STAGES][Tile::KV_BYTES];
  Work work[WORK_SLOTS];
  Barrier workFull[WORK_SLOTS], workEmpty[WORK_SLOTS];
  Barrier qFull[Tile::Q_STAGES], qEmpty[Tile::Q_STAGES];
  Barrier kFull[Tile::STAGES], kEmpty[Tile::STAGES];
  /** The last block of a tile is being copied. */
  Barrier lastBlock;
  /** v arrives at `vFull`, or where some pair is hidden at `vLanded`, and inspectors then at vFull. */
  Barrier vLanded[Tile::STAGES], vFull[Tile::STAGES], vEmpty[Tile::STAGES];
};

/** Where a ring of STAGES places is after `count` steps: the place, and the parity of its phase. */
template <int STAGES>
struct Ring {
  u32 place, parity;
  FA_DEVICE explicit Ring(u32 count) : place(count % STAGES), parity(count / STAGES & 1) {}
};

/** The blocks of keys that some row of a tile sees; one that none sees where there is no other. */
template <class Tile>
struct KeyBlocks {
  int first, last;
  /** Keys that all rows see. */
  int fullBegin, fullEnd;

  FA_DEVICE KeyBlocks(const Attention& p, int firstRow) {
    const int lastRow = least(firstRow + Tile::Q, p.Sq) - 1;
    const int begin = least(most(firstRow + p.lo, 0), p.Skv - 1);
    first = begin / Tile::KV;
    last = most(least(lastRow + p.hi, p.Skv - 1), begin) / Tile::KV;
    fullBegin = lastRow + p.lo;
    fullEnd = least(firstRow + p.hi + 1, p.Skv);
  }
  FA_DEVICE bool partial(int block) const { return block * Tile::KV < fullBegin || (block + 1) * Tile::KV > fullEnd; }
};

// ---- load

template <class Tile>
FA_DEVICE Work work_of(const Attention& p, const Schedule& schedule, int tile) {
  const int together = schedule.heads * schedule.rowBlocks, group = tile / together, rest = tile - group * together;
  const int heads = least(schedule.heads, p.B * p.H - group * schedule.heads);
  const int rowBlock = schedule.rowBlocks - 1 - rest / heads, head = group * schedule.heads + rest % heads;
  Work work = {};
  work.firstRow = rowBlock * Tile::Q, work.head = head % p.H, work.batch = head / p.H;
  work.out = offset_of(p.out, work.batch, work.head, work.firstRow), work.lse = i64{head} * p.Sq + work.firstRow;
  return work;
}

template <class Tile, int ROWS>
FA_DEVICE void load(u8* to_smem, const CUtensorMap& map, int row, int head, int batch, Barrier& full) {
  barrier_arrive_expecting(full, Tile::PANELS * ROWS * PANEL_ROW_BYTES);
#pragma unroll
  for (int panel = 0; panel < Tile::PANELS; panel++)
    tma_load(to_smem + panel * ROWS * PANEL_ROW_BYTES, map, panel * PANEL_ELEMS, row, head, batch, full);
}

template <class Tile>
FA_DEVICE void schedule_tiles(const Attention& p, const Schedule& schedule, const CUtensorMap& q, HopperShared<Tile>& shared) {
  int tile = blockIdx.x;
  u32 loaded = 0;
  bool flushed = false;
#pragma unroll 1
  for (u32 n = 0;; n++) {
    const Ring<WORK_SLOTS> slot(n);
    barrier_wait(shared.workEmpty[slot.place], slot.parity ^ 1);
    Work& next = shared.work[slot.place];
    const bool again = next.again;
    if (again) {
      next.careful = true, next.again = false;
    } else if (tile < schedule.tiles) {
      next = work_of<Tile>(p, schedule, tile);
    } else if (!flushed) {
      next.firstRow = FLUSH;
    } else {
      next.firstRow = END;
      // All is finished when these are.
#pragma unroll 1
      for (u32 before = n - WORK_SLOTS + 1; before != n; before++) {
        const Ring<WORK_SLOTS> other(before);
        barrier_wait(shared.workEmpty[other.place], other.parity);
        Work& done = shared.work[other.place];
        if (!done.again) continue;
        done.careful = true, done.again = false;
        next = done;
        break;
      }
    }
    next.q = loaded;
    const int firstRow = next.firstRow;
    flushed = firstRow == FLUSH;
    barrier_arrive(shared.workFull[slot.place]);
    if (firstRow == END) return;
    if (firstRow == FLUSH) continue;
    // q comes to the L2 cache while its place is not free yet.
#pragma unroll
    for (int panel = 0; panel < Tile::PANELS; panel++)
      tma_prefetch(q, panel * PANEL_ELEMS, firstRow, next.head, next.batch);
    const Ring<Tile::Q_STAGES> qRing(loaded);
    barrier_wait(shared.qEmpty[qRing.place], qRing.parity ^ 1);
    load<Tile, Tile::Q>(shared.q[qRing.place], q, firstRow, next.head, next.batch, shared.qFull[qRing.place]);
    // The next is drawn as late as it may be, so that in the end no block has tiles in store while others have none.
    barrier_wait(shared.lastBlock, loaded++ & 1);
    if (again || tile >= schedule.tiles) continue;
    const int drawn = static_cast<int>(atomicAdd(schedule.counter_gmem, 1));
    // As many are drawn as there are tiles: whoever draws the last leaves the counter as it was.
    if (drawn == schedule.tiles - 1) *schedule.counter_gmem = 0;
    tile = drawn + static_cast<int>(gridDim.x);
  }
}

template <class Tile>
FA_DEVICE void produce(const Attention& p, const CUtensorMap& k, const CUtensorMap& v, HopperShared<Tile>& shared) {
  u32 loaded = 0;
  // v is needed one step after k.
  struct {
    int row, head, batch;
    bool inspected;
  } pending = {-1, 0, 0, false};
  const auto load_pending = [&] {
    if (pending.row < 0) return;
    const Ring<Tile::STAGES> ring(loaded - 1);
    barrier_wait(shared.vEmpty[ring.place], ring.parity ^ 1);
    Barrier& full = pending.inspected ? shared.vLanded[ring.place] : shared.vFull[ring.place];
    load<Tile, Tile::KV>(shared.v[ring.place], v, pending.row, pending.head, pending.batch, full);
    pending.row = -1;
  };
#pragma unroll 1
  for (u32 n = 0;; n++) {
    const Ring<WORK_SLOTS> slot(n);
    barrier_wait(shared.workFull[slot.place], slot.parity);
    const Work work = shared.work[slot.place];
    barrier_arrive(shared.workEmpty[slot.place]);
    if (work.firstRow < 0) {
      load_pending();
      if (work.firstRow == END) return;
      continue;
    }
    const int keyHead = work.head / (p.H / p.Hkv);
    const KeyBlocks<Tile> blocks(p, work.firstRow);
#pragma unroll 1
    for (int block = blocks.last; block >= blocks.first; block--) {
      const Ring<Tile::STAGES> ring(loaded);
      barrier_wait(shared.kEmpty[ring.place], ring.parity ^ 1);
      load<Tile, Tile::KV>(shared.k[ring.place], k, block * Tile::KV, keyHead, work.batch, shared.kFull[ring.place]);
      if (block == blocks.first) barrier_arrive(shared.lastBlock);
      load_pending();
      pending = {block * Tile::KV, keyHead, work.batch, work.careful && blocks.partial(block)};
      loaded++;
    }
  }
}

// ---- what is not finite

FA_DEVICE bool is_zero(u32 sum) { return (sum & 0x7fff7fffu) == 0; }

/** Puts 0 where a tile is not finite, and says whether it was anywhere. By INSPECTORS threads together. */
template <class T, int BYTES>
FA_DEVICE bool take_out(u8* tile_smem, int thread) {
  u32 sum[4] = {};
#pragma unroll 2
  for (int at = 16 * thread; at < BYTES; at += 16 * INSPECTORS) {
    const Chunk chunk = *reinterpret_cast<const Chunk*>(tile_smem + at);
#pragma unroll
    for (int n = 0; n < 4; n++) sum[n] = add_zero_times(chunk.word[n], sum[n], T{});
  }
  const bool found = !is_zero(sum[0] | sum[1] | sum[2] | sum[3]);
  if (!named_or(INSPECTORS_BARRIER, INSPECTORS, found)) return false;
#pragma unroll 1
  for (int at = 16 * thread; at < BYTES; at += 16 * INSPECTORS) {
    Chunk& chunk = *reinterpret_cast<Chunk*>(tile_smem + at);
    Chunk finite = {};
#pragma unroll
    for (int e = 0; e < 8; e++) {
      const T x = get_element<T>(chunk, e);
      if (is_finite(x)) put_element(finite, e, x);
    }
    chunk = finite;
  }
  fence_for_async();
  named_sync(INSPECTORS_BARRIER, INSPECTORS);
  return true;
}

template <class T, class Tile>
FA_DEVICE void inspect(const Attention& p, HopperShared<Tile>& shared, int thread) {
  u32 step = 0, parities = 0;
#pragma unroll 1
  for (u32 n = 0;; n++) {
    const Ring<WORK_SLOTS> slot(n);
    barrier_wait(shared.workFull[slot.place], slot.parity);
    Work& work = shared.work[slot.place];
    if (work.firstRow == END) return;
    if (work.firstRow >= 0) {
      const KeyBlocks<Tile> blocks(p, work.firstRow);
#pragma unroll 1
      for (int block = blocks.last; block >= blocks.first && work.careful; block--) {
        if (!blocks.partial(block)) continue;
        const u32 place = (step + blocks.last - block) % Tile::STAGES;
        barrier_wait(shared.vLanded[place], parities >> place & 1);
        parities ^= 1u << place;
        const bool taken = take_out<T, Tile::KV_BYTES>(shared.v[place], thread);
        if (thread != 0) continue;
        if (taken) work.unclean = true;
        barrier_arrive(shared.vFull[place]);
      }
      step += blocks.last - blocks.first + 1;
    }
    __syncwarp();
    if (lane_id() == 0) barrier_arrive(shared.workEmpty[slot.place]);
  }
}

// ---- consumers

template <class T, class Tile, bool BAND, bool GENERAL>
struct Consumer {
  static constexpr int HD = Tile::HEAD_DIM, KV = Tile::KV, STAGES = Tile::STAGES, GROUPS = Tile::WARPGROUPS;
  static constexpr int K_STEP = 2, V_STEP = 16 * PANEL_ROW_BYTES >> 4;

  enum class Place { FIRST, NEXT_TILE, SAME_TILE };

  const Attention& p;
  HopperShared<Tile>& shared;
  /** The warpgroup among consumers; g and t of the thread as in lib/wgmma.cuh. */
  const int group, g, t;
  /** The first row of the warp in the tile. */
  const int warpRow;
  /** From what scores are in to log2. */
  const float toLog2;

  float acc_reg[HD / 2];
  u32 p_reg[KV / 4];
  /** Of rows g and g + 8: the max, as of when it last grew by much; this thread's share of the sum. */
  float m[2], l[2];
  /** Scores up to here need nothing but their powers. */
  float limit[2];
  /** Blocks so far. */
  u32 steps = 0;
  /** Of the tile under way: where q lies, the block of keys, the first of them, and the warp's first query row. */
  u32 qPlace;
  int block, firstBlock, firstRow;
  /** For dropout and ALiBi. */
  Query query[GENERAL ? 2 : 1];

  FA_DEVICE Consumer(const Attention& p, HopperShared<Tile>& shared, int group)
      : p(p),
        shared(shared),
        group(group),
        g(lane_id() >> 2),
        t(lane_id() & 3),
        warpRow(64 * group + 16 * __shfl_sync(~0u, warp_id() & 3, 0)),
        toLog2(unit() * LOG2E) {}

  FA_DEVICE void run() {
    if (Tile::TURNS && group == GROUPS - 1) named_arrive(TURN_BARRIER, 256);
    // Whether probabilities of the tile before have not been multiplied with v yet.
    bool pending = false;
#pragma unroll 1
    for (u32 n = 0;; n++) {
      const Ring<WORK_SLOTS> slot(n);
      barrier_wait(shared.workFull[slot.place], slot.parity);
      const Work& work = shared.work[slot.place];
      const bool tile = work.firstRow >= 0;
      const KeyBlocks<Tile> blocks(p, work.firstRow);
      // The last blocks of the tile may be seen by rows of other warpgroups only; one without rows sees none.
      const int lastRow = least(work.firstRow + 64 * group + 63, p.Sq - 1);
      const bool rows = tile && work.firstRow + 64 * group < p.Sq;
      const int lastSeen = rows ? most(most(least(lastRow + p.hi, blocks.last * KV), 0) / KV, blocks.first) : blocks.first - 1;
      const int hidden = blocks.last - lastSeen;
      if (pending && (!Tile::STREAM || !tile || hidden > 0)) {
        drain(n - 1);
        pending = false;
      }
      if (work.firstRow == END) return;
      if (tile) {
        const Ring<Tile::Q_STAGES> qRing(work.q);
        qPlace = qRing.place;
        barrier_wait(shared.qFull[qPlace], qRing.parity);
      }
      if (!rows) {
        // With no block that it sees it keeps step block by block.
#pragma unroll 1
        for (int left = tile ? hidden : 0; left > 0; left--) pass_k(), pass_v(steps - 1);
        __syncwarp();
        if (tile) release(shared.qEmpty[qPlace]);
        release(shared.workEmpty[slot.place]);
        continue;
      }
      static_assert(64 * (GROUPS - 1) / KV + 1 < STAGES + 2, "k passes v only where v still comes");
#pragma unroll 1
      for (int left = hidden; left > 0; left--) pass_k();
      block = lastSeen, firstBlock = blocks.first;
      if constexpr (Tile::OVERLAP) {
        if (pending) step<Place::NEXT_TILE>(n);
        else step<Place::FIRST>(n);
#pragma unroll 1
        for (int left = hidden; left > 0; left--) pass_v(steps - 1 - left);
#pragma unroll 1
        while (block > firstBlock) {
          block--;
          step<Place::SAME_TILE>(n);
        }
        pending = true;
      } else {
#pragma unroll 1
        for (int left = hidden; left > 0; left--) pass_v(steps - left);
        step_alone<true>(n);
#pragma unroll 1
        while (block > firstBlock) {
          block--;
          step_alone<false>(n);
        }
        float factor[2];
        conclude(n, factor);
        finish(n, factor);
      }
    }
  }

 private:
  /** What scores are in: q.k themselves, or what the score program makes of them. */
  FA_DEVICE float unit() const { return GENERAL && !p.raw ? 1.f : p.scale; }
  static FA_DEVICE bool is_far(float inLog2) { return fabsf(inLog2) > FAR; }

  /** Scores of a row whose max is far from 0 always need more. */
  FA_DEVICE void set_limit(int half) {
    limit[half] = is_far(m[half] * toLog2) ? NEGATIVE_INFINITY : m[half] + LAG / toLog2;
  }

  /** By the warp, whose lanes are all done with it. */
  FA_DEVICE void release(Barrier& empty) {
    if (lane_id() == 0) barrier_arrive(empty);
  }

  /** A block that the warpgroup does not see. */
  FA_DEVICE void pass_k() {
    const Ring<STAGES> ring(steps++);
    barrier_wait(shared.kFull[ring.place], ring.parity);
    __syncwarp();
    release(shared.kEmpty[ring.place]);
    if constexpr (Tile::TURNS) {
      named_sync(TURN_BARRIER + group, 256);
      named_arrive(TURN_BARRIER + (group + 1) % GROUPS, 256);
    }
  }
  FA_DEVICE void pass_v(u32 step) {
    const Ring<STAGES> ring(step);
    barrier_wait(shared.vFull[ring.place], ring.parity);
    __syncwarp();
    release(shared.vEmpty[ring.place]);
  }

  /** The last accumulation of tile n with nothing beside it. */
  FA_DEVICE void drain(u32 n) {
    const Ring<STAGES> ring(steps - 1);
    barrier_wait(shared.vFull[ring.place], ring.parity);
    wgmma_fence();
    accumulate(ring.place);
    float factor[2];
    conclude(n, factor);
    wgmma_wait<0>();
    release(shared.vEmpty[ring.place]);
    finish(n, factor);
  }

  /** One block of keys of tile n: its scores and softmax, and the accumulation of the block before. */
  template <Place PLACE>
  FA_DEVICE void step(u32 n) {
    constexpr bool NEW_TILE = PLACE != Place::SAME_TILE, BEFORE = PLACE != Place::FIRST;
    // load: all waits come before the first product
    const Ring<STAGES> kRing(steps), vRing(steps - 1);
    barrier_wait(shared.kFull[kRing.place], kRing.parity);
    if constexpr (BEFORE) barrier_wait(shared.vFull[vRing.place], vRing.parity);

    // scores: s [64, Bc], and the accumulation of the block before
    float s_reg[KV / 2];
    if constexpr (Tile::TURNS) named_sync(TURN_BARRIER + group, 256);
    wgmma_fence();
    scores(s_reg, kRing.place);
    if constexpr (BEFORE) accumulate(vRing.place);
    if constexpr (Tile::TURNS) named_arrive(TURN_BARRIER + (group + 1) % GROUPS, 256);
    float factor[2];
    if constexpr (NEW_TILE && BEFORE) conclude(n - 1, factor);
    if constexpr (NEW_TILE) begin(shared.work[n % WORK_SLOTS]);
    wgmma_wait<BEFORE ? 1 : 0>();
    release(shared.kEmpty[kRing.place]);
    if (block == firstBlock) release(shared.qEmpty[qPlace]);

    // softmax: p [64, Bc]
    float alpha[2];
    const bool rescale = softmax<BAND || NEW_TILE>(s_reg, alpha);
    if constexpr (BEFORE) {
      wgmma_wait<0>();
      release(shared.vEmpty[vRing.place]);
    }
#pragma unroll
    for (int n = 0; n < KV / 4; n++) p_reg[n] = pack2<T>(s_reg[2 * n], s_reg[2 * n + 1]);
    if constexpr (NEW_TILE) {
      if constexpr (BEFORE) finish(n - 1, factor);
#pragma unroll
      for (int n = 0; n < HD / 2; n++) acc_reg[n] = 0.f;
    } else if (rescale) {
#pragma unroll
      for (int n = 0; n < HD / 2; n++) acc_reg[n] *= alpha[n >> 1 & 1];
    }
    steps++;
  }

  /** One block of keys of tile n from its scores to their accumulation. */
  template <bool NEW_TILE>
  FA_DEVICE void step_alone(u32 n) {
    static_assert(!Tile::TURNS && !Tile::STREAM);
    const Ring<STAGES> ring(steps++);
    barrier_wait(shared.kFull[ring.place], ring.parity);
    float s_reg[KV / 2];
    wgmma_fence();
    scores(s_reg, ring.place);
    if constexpr (NEW_TILE) begin(shared.work[n % WORK_SLOTS]);
    wgmma_wait<0>();
    release(shared.kEmpty[ring.place]);
    if (block == firstBlock) release(shared.qEmpty[qPlace]);

    float alpha[2];
    const bool rescale = softmax<BAND || NEW_TILE>(s_reg, alpha);
#pragma unroll
    for (int n = 0; n < KV / 4; n++) p_reg[n] = pack2<T>(s_reg[2 * n], s_reg[2 * n + 1]);
    if constexpr (NEW_TILE) {
#pragma unroll
      for (int n = 0; n < HD / 2; n++) acc_reg[n] = 0.f;
    } else if (rescale) {
#pragma unroll
      for (int n = 0; n < HD / 2; n++) acc_reg[n] *= alpha[n >> 1 & 1];
    }

    barrier_wait(shared.vFull[ring.place], ring.parity);
    wgmma_fence();
    accumulate(ring.place);
    wgmma_wait<0>();
    release(shared.vEmpty[ring.place]);
  }

  /** setup of a tile */
  FA_DEVICE void begin(const Work& work) {
    firstRow = work.firstRow + warpRow;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      m[half] = NEGATIVE_INFINITY, l[half] = 0.f;
      if constexpr (GENERAL) {
        const int i = firstRow + g + 8 * half;
        query[half] = query_at<true>(p, work.batch, work.head, i, i < p.Sq);
        m[half] = sink_of(p, work.head);
        // One of the four lanes of a row has the sink's share; they are summed in the end.
        l[half] = m[half] == NEGATIVE_INFINITY || t != 0 ? 0.f : 1.f;
      }
      limit[half] = NEGATIVE_INFINITY;
    }
  }

  FA_DEVICE void scores(float (&s_reg)[KV / 2], u32 place) {
    u64 q = descriptor(shared.q[qPlace] + group * 64 * PANEL_ROW_BYTES, 0);
    const u64 k = descriptor(shared.k[place], 0);
    // Where acc needs most registers, what is added to q is not to be kept from step to step.
    if constexpr (HD > 128) keep_apart(q);
#pragma unroll
    for (int n = 0; n < HD / 16; n++) {
      const int panel = n / 4, column = n % 4 * K_STEP;
      Wgmma<T, KV>::rows(s_reg, q + column + panel * (Tile::Q * PANEL_ROW_BYTES >> 4),
                         k + column + panel * (KV * PANEL_ROW_BYTES >> 4), n > 0);
    }
    wgmma_commit();
  }

  FA_DEVICE void accumulate(u32 place) {
    const u64 v = descriptor(shared.v[place], KV * PANEL_ROW_BYTES);
#pragma unroll
    for (int n = 0; n < KV / 16; n++)
      Wgmma<T, HD>::columns(acc_reg, p_reg[4 * n], p_reg[4 * n + 1], p_reg[4 * n + 2], p_reg[4 * n + 3], v + n * V_STEP);
    wgmma_commit();
  }

  /** p [64, Bc] in place of s. Whether what was accumulated has to be multiplied by alpha. */
  template <bool MAY_HIDE>
  FA_DEVICE bool softmax(float (&s_reg)[KV / 2], float (&alpha)[2]) {
    if constexpr (GENERAL) {
      if (!p.raw) {
#pragma unroll
        for (int n = 0; n < KV / 2; n++) {
          const int half = n >> 1 & 1, j = block * KV + 2 * t + 2 * (n & ~3) + (n & 1);
          s_reg[n] = score_of<true, false>(p, query[half], j, s_reg[n]);
        }
      }
    }
    if constexpr (MAY_HIDE) hide(s_reg);

    float max[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float even = s_reg[2 * half], odd = s_reg[2 * half + 1];
#pragma unroll
      for (int n = 4; n < KV / 2; n += 4) {
        even = fmaxf(even, s_reg[n + 2 * half]);
        odd = fmaxf(odd, s_reg[n + 2 * half + 1]);
      }
      max[half] = quad_max(fmaxf(even, odd));
    }
    // Powers are 2^(s c - m c) by one rounding, and that of m c, which all of the row share: it cancels. Where m is far from 0 it
    // does not, and is subtracted first.
    float base[2] = {subtrahend(m[0]) * toLog2, subtrahend(m[1]) * toLog2};
    const bool beyond = __any_sync(~0u, max[0] > limit[0] || max[1] > limit[1]);
    if (beyond) {
      // Each row by itself, so that none depends on what is in another.
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const float before = m[half];
        const bool grows = (max[half] - before) * toLog2 > LAG;
        if (grows) m[half] = max[half];
        base[half] = subtrahend(m[half]) * toLog2;
        const bool far = is_far(base[half]);
        alpha[half] = grows ? exp2_flushed(far ? (before - m[half]) * toLog2 : before * toLog2 - base[half]) : 1.f;
        l[half] *= alpha[half];
        set_limit(half);
        if (far) base[half] = 0.f;
#pragma unroll
        for (int n = 2 * half; n < KV / 2; n += 4) {
          if (far) s_reg[n] -= m[half], s_reg[n + 1] -= m[half];
        }
      }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float even = 0.f, odd = 0.f;
#pragma unroll
      for (int n = 2 * half; n < KV / 2; n += 4) {
        s_reg[n] = exp2_flushed(__fmaf_rn(s_reg[n], toLog2, -base[half]));
        s_reg[n + 1] = exp2_flushed(__fmaf_rn(s_reg[n + 1], toLog2, -base[half]));
        even += s_reg[n];
        odd += s_reg[n + 1];
      }
      l[half] += even + odd;
    }
    if constexpr (GENERAL) {
      if (p.hasDropout) drop(s_reg);
    }
    return beyond;
  }

  /** -Infinity where a pair is hidden. */
  FA_DEVICE void hide(float (&s_reg)[KV / 2]) {
    const int j0 = block * KV;
    const int shortestEnd = BAND ? least(firstRow + p.hi + 1, p.Skv) : p.Skv;
    if (j0 + KV > shortestEnd) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int end = BAND ? least(firstRow + g + 8 * half + p.hi + 1, p.Skv) : p.Skv, columns = end - j0 - 2 * t;
#pragma unroll
        for (int n = 2 * half; n < KV / 2; n += 4) {
          if (2 * (n & ~3) >= columns) s_reg[n] = NEGATIVE_INFINITY;
          if (2 * (n & ~3) + 1 >= columns) s_reg[n + 1] = NEGATIVE_INFINITY;
        }
      }
    }
    if (BAND && j0 < firstRow + 15 + p.lo) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int columns = firstRow + g + 8 * half + p.lo - j0 - 2 * t;
#pragma unroll
        for (int n = 2 * half; n < KV / 2; n += 4) {
          if (2 * (n & ~3) < columns) s_reg[n] = NEGATIVE_INFINITY;
          if (2 * (n & ~3) + 1 < columns) s_reg[n + 1] = NEGATIVE_INFINITY;
        }
      }
    }
  }

  /** 0 where dropout drops. The two neighbours that a thread has of each eight keys share their draws. */
  FA_DEVICE void drop(float (&s_reg)[KV / 2]) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const Query& q = query[half];
#pragma unroll
      for (int n = 0; n < KV / 8; n++) {
        const Draws draws = draws_of(p.dropout, block * (KV / 8) + n, q.i, q.b * p.H + q.h);
#pragma unroll
        for (int e = 0; e < 2; e++)
          if (!keeps(p.dropout, draws, 2 * t + e)) s_reg[4 * n + 2 * half + e] = 0.f;
      }
    }
  }

  /** lse [64] of tile n, and what turns acc into out: EMPTY for a row that saw nothing, and has l = 0. */
  FA_DEVICE void conclude(u32 n, float (&factor)[2]) {
    const Work& work = shared.work[n % WORK_SLOTS];
    const float sum[2] = {quad_sum(l[0]), quad_sum(l[1])};
    const int row = warpRow + g;
    float* lse_gmem = p.lse_gmem + work.lse + row;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const bool empty = sum[half] == 0.f;
      factor[half] = empty ? EMPTY : reciprocal_approx(sum[half]) * (GENERAL && p.hasDropout ? p.dropout.scale : 1.f);
      if (t == 0 && work.firstRow + row + 8 * half < p.Sq && p.lse_gmem)
        lse_gmem[8 * half] = empty ? NEGATIVE_INFINITY : fmaf(m[half], unit(), product(log2_approx(sum[half]), LN2));
    }
  }

  /** out [64, Dv] of tile n. */
  FA_DEVICE void finish(u32 n, const float (&factor)[2]) {
    const Ring<WORK_SLOTS> slot(n);
    Work& work = shared.work[slot.place];
    const int row = warpRow + g;
    T* out_gmem = static_cast<T*>(p.out_gmem) + work.out + row * p.out.row + 8 * t;
    bool polluted = false;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const bool there = work.firstRow + row + 8 * half < p.Sq;
      u32 finite = 0;
#pragma unroll
      for (int n = 0; n < HD / 32; n++) {
        u32 words[4];
#pragma unroll
        for (int e = 0; e < 4; e++) {
          const float* pair = acc_reg + 16 * n + 4 * e + 2 * half;
          // 0 x + x is NaN where x is Infinity.
          const float first = pair[0] * factor[half], second = pair[1] * factor[half];
          words[e] = factor[half] == EMPTY ? 0 : pack2<T>(__fmaf_rn(0.f, first, first), __fmaf_rn(0.f, second, second));
          finite = add_zero_times(words[e], finite, T{});
        }
        quad_transpose(words);
        if (there && 32 * n + 8 * t < p.Dv) store16(out_gmem + 8 * half * p.out.row + 32 * n, words);
      }
      // A row whose sum is NaN sees one.
      polluted = polluted || (!is_zero(finite) && is_finite(factor[half]));
    }
    if (work.careful) {
      if (work.unclean) show_nan(work, factor);
    } else if (polluted) {
      work.again = true;
    }
    __syncwarp();
    release(shared.workEmpty[slot.place]);
  }

  /** NaN in those elements of out whose row sees something that inspectors took out. */
  FA_DEVICE void show_nan(const Work& work, const float (&factor)[2]) {
    __syncwarp();
    const KeyBlocks<Tile> blocks(p, work.firstRow);
    const T* v_gmem = static_cast<const T*>(p.v_gmem) + offset_of(p.v, work.batch, work.head / (p.H / p.Hkv), 0);
#pragma unroll 1
    for (int j = blocks.first * KV + t; j < least((blocks.last + 1) * KV, p.Skv); j += 4) {
      if (!blocks.partial(j / KV)) continue;
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int i = work.firstRow + warpRow + g + 8 * half;
        if (factor[half] == EMPTY || i >= p.Sq || j < i + p.lo || j > i + p.hi) continue;
        T* out_gmem = static_cast<T*>(p.out_gmem) + offset_of(p.out, work.batch, work.head, i);
#pragma unroll 1
        for (int d = 0; d < p.Dv; d++) {
          if (!is_finite(v_gmem[j * p.v.row + d])) from_float(out_gmem[d], quiet_nan());
        }
      }
    }
  }
};

template <class T, class Tile, bool BAND, bool GENERAL>
__global__ void __launch_bounds__(Tile::THREADS, Tile::BLOCKS)
    forward_hopper(const __grid_constant__ CUtensorMap q, const __grid_constant__ CUtensorMap k,
                   const __grid_constant__ CUtensorMap v, const __grid_constant__ Attention p,
                   const __grid_constant__ Schedule schedule) {
  HopperShared<Tile>& shared = *reinterpret_cast<HopperShared<Tile>*>(tiles_base());
  constexpr int CONSUMER_WARPS = 4 * Tile::WARPGROUPS;
  if (threadIdx.x == 0) {
    for (int n = 0; n < WORK_SLOTS; n++) {
      shared.work[n].again = false;
      barrier_init(shared.workFull[n], 1);
      barrier_init(shared.workEmpty[n], CONSUMER_WARPS + INSPECTOR_WARPS + 1);
    }
    barrier_init(shared.lastBlock, 1);
    for (int n = 0; n < Tile::Q_STAGES; n++) {
      barrier_init(shared.qFull[n], 1);
      barrier_init(shared.qEmpty[n], CONSUMER_WARPS);
    }
    for (int n = 0; n < Tile::STAGES; n++) {
      barrier_init(shared.kFull[n], 1), barrier_init(shared.vFull[n], 1), barrier_init(shared.vLanded[n], 1);
      barrier_init(shared.kEmpty[n], CONSUMER_WARPS), barrier_init(shared.vEmpty[n], CONSUMER_WARPS);
    }
    barrier_init_done();
  }
  __syncthreads();

  const int warpgroup = __shfl_sync(~0u, static_cast<int>(threadIdx.x) >> 7, 0);
  if (warpgroup == 0) {
    give_registers<Tile::PRODUCER_REGISTERS>();
    if (threadIdx.x == 0) schedule_tiles<Tile>(p, schedule, q, shared);
    else if (threadIdx.x == 32) produce<Tile>(p, k, v, shared);
    else if (threadIdx.x >= 64) inspect<T, Tile>(p, shared, threadIdx.x - 64);
  } else {
    take_registers<Tile::CONSUMER_REGISTERS>();
    Consumer<T, Tile, BAND, GENERAL>(p, shared, warpgroup - 1).run();
  }
}

}  // namespace fa
