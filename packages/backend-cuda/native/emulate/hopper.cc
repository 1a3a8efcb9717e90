#include "hopper.h"

#include <vector>

#include "../kernels/lib/dtype.cuh"

namespace emulate {

namespace {

/** An mbarrier: a phase is over when none is pending and all bytes have come. */
struct Phase {
  u32 parity : 1, arrivals : 15, pending : 16;
  std::int32_t bytes;
};
static_assert(sizeof(Phase) == sizeof(u64));

Phase phase_of(const u64& barrier) {
  Phase phase;
  std::memcpy(&phase, &barrier, sizeof phase);
  return phase;
}

void set_phase(u64& barrier, Phase phase) {
  if (phase.pending == 0 && phase.bytes == 0) {
    phase.parity ^= 1;
    phase.pending = phase.arrivals;
  }
  std::memcpy(&barrier, &phase, sizeof phase);
  moved();
}

void arrive(u64& barrier, u32 bytes) {
  Phase phase = phase_of(barrier);
  if (phase.pending == 0) fail("more arrivals than a barrier counts");
  phase.pending--;
  phase.bytes += static_cast<std::int32_t>(bytes);
  set_phase(barrier, phase);
}

struct NamedBarrier {
  int arrived;
  unsigned generation;
  bool any, result;
};
NamedBarrier named[16];

bool at_named(int barrier, int threads, bool value, bool waits) {
  NamedBarrier& at = named[barrier];
  const unsigned generation = at.generation;
  at.any = at.any || value;
  moved();
  if (++at.arrived == threads) {
    at = {0, generation + 1, false, at.any};
  } else if (waits) {
    wait_until([&] { return at.generation != generation; });
  }
  return at.result;
}

constexpr unsigned WARPGROUP = 128;

/** Products that its threads have asked for, in groups. */
struct Warpgroup {
  std::vector<Product> open[WARPGROUP];
  std::vector<std::vector<Product>> groups[WARPGROUP];
  unsigned arrived, generation;
};
std::vector<Warpgroup> warpgroups;

float element_at(u32 at_smem, bool isFloat16) {
  std::uint16_t bits;
  std::memcpy(&bits, shared_base() + (at_smem ^ (at_smem >> 7 & 7) << 4), 2);
  return isFloat16 ? fa::to_float(fa::Float16{bits}) : fa::to_float(fa::Bfloat16{bits});
}

u32 address_of(u64 descriptor) { return static_cast<u32>(descriptor & 0x3fff) << 4; }
u32 panel_bytes_of(u64 descriptor) { return static_cast<u32>(descriptor >> 16 & 0x3fff) << 4; }

/** One product of the whole warpgroup, as each of its threads asked for it. */
void multiply(const Product* (&asked)[WARPGROUP]) {
  const Product& product = *asked[0];
  const bool half = product.isFloat16;
  static float a[64][16], b[16][256];
  for (u32 k = 0; k < 16; k++) {
    for (u32 n = 0; n < static_cast<u32>(product.columns); n++) {
      const u32 at = product.bIsColumns ? n / 64 * panel_bytes_of(product.b_smem) + 128 * k + n % 64 * 2 : 128 * n + 2 * k;
      b[k][n] = element_at(address_of(product.b_smem) + at, half);
    }
    for (u32 row = 0; row < 64; row++) {
      if (product.inRegisters) {
        const u32 word = asked[row / 16 * 32 + row % 8 * 4 + k % 8 / 2]->a_reg[row % 16 / 8 + k / 8 * 2];
        const auto bits = static_cast<std::uint16_t>(word >> 16 * (k % 2));
        a[row][k] = half ? fa::to_float(fa::Float16{bits}) : fa::to_float(fa::Bfloat16{bits});
      } else {
        a[row][k] = element_at(address_of(product.a_smem) + 128 * row + 2 * k, half);
      }
    }
  }
  for (unsigned thread = 0; thread < WARPGROUP; thread++) {
    const Product& mine = *asked[thread];
    if (mine.b_smem != product.b_smem || mine.a_smem != product.a_smem) fail("threads of a warpgroup ask for different products");
    const unsigned firstRow = thread / 32 * 16 + thread % 32 / 4, firstColumn = thread % 4 * 2;
    for (int n = 0; n < product.columns / 2; n++) {
      const unsigned row = firstRow + (n >> 1 & 1) * 8, column = firstColumn + n / 4 * 8 + (n & 1);
      double sum = mine.add ? mine.sums[n] : 0;
      for (u32 k = 0; k < 16; k++) sum += static_cast<double>(a[row][k]) * b[k][column];
      mine.sums[n] = truncate(sum);
    }
  }
}

}  // namespace

void begin_block(unsigned threads) {
  for (NamedBarrier& barrier : named) barrier = {};
  warpgroups.resize((threads + WARPGROUP - 1) / WARPGROUP);
  for (const Warpgroup& group : warpgroups)
    for (const auto& groups : group.groups)
      if (!groups.empty()) fail("products that nobody has waited for");
}

void wgmma(const Product& product) { warpgroups[thread() / WARPGROUP].open[thread() % WARPGROUP].push_back(product); }

namespace sm90a {

void barrier_init(u64& barrier, u32 arrivals) {
  const Phase phase = {0, arrivals, arrivals, 0};
  std::memcpy(&barrier, &phase, sizeof phase);
}
void barrier_arrive(u64& barrier) { arrive(barrier, 0); }
void barrier_arrive_expecting(u64& barrier, u32 bytes) { arrive(barrier, bytes); }
void barrier_wait(u64& barrier, u32 parity) {
  wait_until([&] { return phase_of(barrier).parity != parity; });
}

void named_sync(int barrier, int threads) { at_named(barrier, threads, false, true); }
void named_arrive(int barrier, int threads) { at_named(barrier, threads, false, false); }
bool named_or(int barrier, int threads, bool value) { return at_named(barrier, threads, value, true); }

void tma_load(void* to_smem, const CUtensorMap& map, int column, int row, int head, int batch, u64& barrier) {
  if ((static_cast<std::uint8_t*>(to_smem) - shared_base()) % 1024 != 0) fail("a tile that does not begin at a multiple of 1024");
  copy_later([=, &barrier] {
    for (u32 r = 0; r < map.box[1]; r++) {
      for (u32 c = 0; c < map.box[0]; c++) {
        const std::uint64_t index[] = {u64(column) + c, u64(row) + r, u64(head), u64(batch)};
        std::uint16_t bits = 0;
        const std::uint8_t* from = map.tensor;
        bool inside = true;
        for (int n = 0; n < 4; n++) inside = inside && index[n] < map.sizes[n], from += index[n] * map.bytes[n];
        if (inside) std::memcpy(&bits, from, 2);
        std::memcpy(static_cast<std::uint8_t*>(to_smem) + 128 * r + ((c / 8 ^ r % 8) << 4) + c % 8 * 2, &bits, 2);
      }
    }
    Phase phase = phase_of(barrier);
    phase.bytes -= static_cast<std::int32_t>(map.box[0] * map.box[1] * 2);
    set_phase(barrier, phase);
  });
}

void wgmma_commit() {
  Warpgroup& group = warpgroups[thread() / WARPGROUP];
  group.groups[thread() % WARPGROUP].push_back(std::move(group.open[thread() % WARPGROUP]));
  group.open[thread() % WARPGROUP].clear();
}

void wgmma_wait(int pending) {
  Warpgroup& group = warpgroups[thread() / WARPGROUP];
  const unsigned generation = group.generation;
  moved();
  if (++group.arrived < WARPGROUP) {
    wait_until([&] { return group.generation != generation; });
    return;
  }
  while (group.groups[0].size() > static_cast<std::size_t>(pending)) {
    for (std::size_t n = 0; n < group.groups[0].front().size(); n++) {
      const Product* asked[WARPGROUP];
      for (unsigned of = 0; of < WARPGROUP; of++) {
        if (group.groups[of].empty() || group.groups[of].front().size() <= n)
          fail("threads of a warpgroup ask for different products");
        asked[of] = &group.groups[of].front()[n];
      }
      multiply(asked);
    }
    for (auto& groups : group.groups) groups.erase(groups.begin());
  }
  group.arrived = 0;
  group.generation++;
}

u64 descriptor(const void* panel_smem, u32 panelBytes) {
  return static_cast<u64>((static_cast<const std::uint8_t*>(panel_smem) - shared_base()) >> 4) |
         static_cast<u64>(panelBytes >> 4) << 16;
}

}  // namespace sm90a

u32 add_zero_times(u32 x, u32 sum, u32 exponent) {
  for (int half = 0; half < 32; half += 16)
    if ((x >> half & exponent) == exponent) sum |= (exponent | exponent >> 1) << half & 0x7fffu << half;
  return sum;
}

}  // namespace emulate

CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType, cuuint32_t rank, void* tensor, const cuuint64_t* sizes,
                                const cuuint64_t* bytes, const cuuint32_t* box, const cuuint32_t* steps, CUtensorMapInterleave,
                                CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  map->tensor = static_cast<std::uint8_t*>(tensor);
  bool taken = rank == 4 && reinterpret_cast<std::uintptr_t>(tensor) % 16 == 0 && box[0] <= 64;
  for (int n = 0; n < 4; n++) {
    map->sizes[n] = sizes[n], map->box[n] = box[n], map->bytes[n] = n == 0 ? 2 : bytes[n - 1];
    taken = taken && sizes[n] > 0 && box[n] > 0 && box[n] <= 256 && steps[n] == 1 && (n == 0 || bytes[n - 1] % 16 == 0);
  }
  return taken ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult* result) {
  if (std::strcmp(name, "cuTensorMapEncodeTiled") != 0) return cudaErrorInvalidValue;
  *function = reinterpret_cast<void*>(cuTensorMapEncodeTiled);
  *result = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}
