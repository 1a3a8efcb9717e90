// The C interface on the CUDA runtime: devices, memory, staging, and argument lists that become kernel parameters.
#include "launch.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <mutex>
#include <vector>

#include "kernels/facts.h"
#include "kernels/table.h"

namespace {

using namespace fa;

/** Idle page-locked memory that is kept for the next copies, in bytes. */
constexpr size_t IDLE_STAGING_BYTES = size_t{256} << 20;
/** Uploads go in pieces of at most so many bytes. */
constexpr size_t PIECE_BYTES = size_t{32} << 20;
constexpr size_t SMALLEST_STAGING_BYTES = size_t{64} << 10;

/** Whether this addon was built with the kernels for sm_90a. */
#ifdef FA_SM90A
constexpr bool HAS_SM90A = true;
#else
constexpr bool HAS_SM90A = false;
#endif

void describe(char to[256], cudaError_t error) {
  std::snprintf(to, 256, "%s: %s", cudaGetErrorName(error), cudaGetErrorString(error));
}

/** Page-locked memory, through which copies pass. */
struct Staging {
  void* pointer = nullptr;
  size_t bytes = 0;
  cudaEvent_t copied = nullptr;
};

class StagingPool {
 public:
  /** Staging of at least `bytes` whose last copy is over. */
  cudaError_t take(size_t bytes, std::unique_ptr<Staging>& staging) {
    {
      const std::lock_guard<std::mutex> lock(lock_);
      for (auto one = idle_.begin(); one != idle_.end(); ++one) {
        if ((*one)->bytes < bytes || (*one)->bytes > 4 * std::max(bytes, SMALLEST_STAGING_BYTES)) continue;
        if (cudaEventQuery((*one)->copied) != cudaSuccess) continue;
        staging = std::move(*one);
        idle_.erase(one);
        idleBytes_ -= staging->bytes;
        return cudaSuccess;
      }
    }
    auto made = std::make_unique<Staging>();
    made->bytes = SMALLEST_STAGING_BYTES;
    while (made->bytes < bytes) made->bytes *= 2;
    cudaError_t error = cudaHostAlloc(&made->pointer, made->bytes, cudaHostAllocDefault);
    if (error != cudaSuccess) {
      cudaGetLastError();
      return error;
    }
    error = cudaEventCreateWithFlags(&made->copied, cudaEventDisableTiming | cudaEventBlockingSync);
    if (error != cudaSuccess) {
      cudaFreeHost(made->pointer);
      return error;
    }
    staging = std::move(made);
    return cudaSuccess;
  }

  /** Back from a copy, which may still be under way. */
  void give(std::unique_ptr<Staging> staging) {
    std::vector<std::unique_ptr<Staging>> surplus;
    {
      const std::lock_guard<std::mutex> lock(lock_);
      idleBytes_ += staging->bytes;
      idle_.push_back(std::move(staging));
      while (idleBytes_ > IDLE_STAGING_BYTES) {
        idleBytes_ -= idle_.front()->bytes;
        surplus.push_back(std::move(idle_.front()));
        idle_.erase(idle_.begin());
      }
    }
    for (const auto& one : surplus) destroy(*one);
  }

  void clear() {
    const std::lock_guard<std::mutex> lock(lock_);
    for (const auto& one : idle_) destroy(*one);
    idle_.clear();
    idleBytes_ = 0;
  }

 private:
  static void destroy(const Staging& staging) {
    cudaEventSynchronize(staging.copied);
    cudaEventDestroy(staging.copied);
    cudaFreeHost(staging.pointer);
  }

  std::mutex lock_;
  std::vector<std::unique_ptr<Staging>> idle_;
  size_t idleBytes_ = 0;
};

}  // namespace

struct FaInstance {
  int device = 0;
  int processors = 0;
  cudaStream_t stream = nullptr;
  /** MOST_COUNTERS zeros on the device. */
  unsigned* counters = nullptr;
  StagingPool staging;
  char error[256] = "";
};

struct FaRead {
  FaInstance* instance;
  size_t bytes;
  std::unique_ptr<Staging> staging;
};

namespace {

/** The instance's device as this thread's, which asks less of the runtime than setting it. */
cudaError_t use_device(const FaInstance* instance) {
  int current = -1;
  const cudaError_t error = cudaGetDevice(&current);
  return error == cudaSuccess && current != instance->device ? cudaSetDevice(instance->device) : error;
}

FaStatus status_of(FaInstance* instance, cudaError_t error) {
  if (error == cudaSuccess) return FA_OK;
  describe(instance->error, error);
  cudaGetLastError();
  if (error == cudaErrorMemoryAllocation) return FA_OUT_OF_MEMORY;
  // An error that stays when it has been taken note of is one that the context does not recover from.
  const cudaError_t after = cudaStreamQuery(instance->stream);
  return after == cudaSuccess || after == cudaErrorNotReady ? FA_FAILED : FA_DEAD;
}

int clamped(double x) { return static_cast<int>(std::min(std::max(x, -0x1p30), 0x1p30)); }

Attention attention_of(const double* slots) {
  Attention p = {};
  const auto number = [&](int slot) { return static_cast<i64>(slots[slot]); };
  const auto size = [&](int slot) { return static_cast<int>(slots[slot]); };
  const auto at = [&](int slot) { return reinterpret_cast<void*>(static_cast<std::uintptr_t>(slots[slot])); };
  p.q_gmem = at(FA_Q), p.k_gmem = at(FA_K), p.v_gmem = at(FA_V), p.out_gmem = at(FA_OUT);
  p.lse_gmem = static_cast<float*>(at(FA_LSE));
  p.bias_gmem = at(FA_BIAS), p.alibi_gmem = at(FA_ALIBI), p.sinks_gmem = at(FA_SINKS);
  p.mask_gmem = static_cast<const u8*>(at(FA_MASK));
  p.dout_gmem = at(FA_DOUT), p.dq_gmem = at(FA_DQ), p.dk_gmem = at(FA_DK), p.dv_gmem = at(FA_DV_OUT);
  p.dbias_gmem = at(FA_DBIAS), p.dsinks_gmem = at(FA_DSINKS);
  p.delta_gmem = static_cast<float*>(at(FA_DELTA));
  p.partial_gmem = static_cast<float*>(at(FA_PARTIAL)), p.partialLse_gmem = static_cast<float*>(at(FA_PARTIAL_LSE));
  p.B = size(FA_B), p.H = size(FA_H), p.Hkv = size(FA_HKV), p.Sq = size(FA_SQ), p.Skv = size(FA_SKV);
  p.D = size(FA_D), p.Dv = size(FA_DV);
  const bool bshd = slots[FA_BSHD] != 0;
  const auto strides = [&](i64 heads, i64 rows, i64 dim) -> Strides {
    const i64 batch = heads * rows * dim;
    return bshd ? Strides{batch, dim, heads * dim} : Strides{batch, rows * dim, dim};
  };
  p.q = strides(p.H, p.Sq, p.D), p.k = strides(p.Hkv, p.Skv, p.D);
  p.v = strides(p.Hkv, p.Skv, p.Dv), p.out = strides(p.H, p.Sq, p.Dv);
  const int bytes = size(FA_DTYPE) == FA_FLOAT32 ? 4 : 2;
  const auto aligned = [&](int dim, std::initializer_list<const void*> pointers) {
    bool all = dim * bytes % 16 == 0;
    for (const void* pointer : pointers) all = all && reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0;
    return all;
  };
  p.qkAligned = aligned(p.D, {p.q_gmem, p.k_gmem});
  p.vAligned = aligned(p.Dv, {p.v_gmem, p.dout_gmem});
  p.tileQ = size(FA_TILE_Q), p.tileKV = size(FA_TILE_KV), p.group = size(FA_GROUP), p.splits = size(FA_SPLITS);

  const double scale = slots[FA_SCALE], cap = slots[FA_SOFTCAP];
  p.scale = static_cast<float>(scale);
  p.cap = static_cast<float>(cap);
  p.scaleByCap = cap > 0 ? static_cast<float>(scale / cap) : 0.f;
  p.lo = clamped(slots[FA_BAND_LO]), p.hi = clamped(slots[FA_BAND_HI]);
  p.biasDType = size(FA_BIAS_DTYPE), p.alibiDType = size(FA_ALIBI_DTYPE), p.sinksDType = size(FA_SINKS_DTYPE);
  p.alibiPerBatch = slots[FA_ALIBI_PER_BATCH] != 0;
  p.bias = {number(FA_BIAS_BATCH), number(FA_BIAS_HEAD), number(FA_BIAS_ROW), number(FA_BIAS_COLUMN)};
  p.mask = {number(FA_MASK_BATCH), number(FA_MASK_HEAD), number(FA_MASK_ROW), number(FA_MASK_COLUMN)};
  // With a scale of 0, or one that a product may lose, a hidden score would be -Infinity times 0.
  p.raw = p.scale >= 0x1p-120f && p.cap == 0 && !p.bias_gmem && !p.alibi_gmem && !p.sinks_gmem;
  p.hasDropout = slots[FA_DROPOUT] != 0;
  p.dropout = {static_cast<u32>(slots[FA_DROPOUT_THRESHOLD]), static_cast<float>(slots[FA_DROPOUT_SCALE]),
               static_cast<u32>(slots[FA_DROPOUT_SEED_LOW]), static_cast<u32>(slots[FA_DROPOUT_SEED_HIGH]),
               static_cast<u32>(slots[FA_DROPOUT_OFFSET])};
  return p;
}

/** What the kernels for the common options leave out. */
bool is_general(const Attention& p) { return !p.raw || p.mask_gmem || p.hasDropout; }

cudaError_t run_attention(FaInstance* instance, FaOp op, const double* slots) {
  Attention p = attention_of(slots);
  if (op == FA_OP_FORWARD && (p.B == 0 || p.Sq == 0)) return cudaSuccess;
  p.counters_gmem = instance->counters;
  const bool general = is_general(p);
  const int dtype = static_cast<int>(slots[FA_DTYPE]), family = static_cast<int>(slots[FA_FAMILY]);
#ifdef FA_SM90A
  if (family == FA_HOPPER || family == FA_HOPPER_SHORT || family == FA_HOPPER_GENERAL) {
    if (p.qkAligned && p.vAligned && reinterpret_cast<std::uintptr_t>(p.out_gmem) % 16 == 0) {
      const auto common = dtype == FA_FLOAT16 ? forward_hopper_float16 : forward_hopper_bfloat16;
      const auto all = dtype == FA_FLOAT16 ? forward_hopper_general_float16 : forward_hopper_general_bfloat16;
      return general ? all(p, instance->processors, instance->stream)
                     : common(p, family == FA_HOPPER_SHORT, instance->processors, instance->stream);
    }
    // Memory of a caller's that does not begin at a multiple of 16 bytes goes to the generic kernel, in tiles that all of its
    // instances take.
    p.tileQ = p.tileKV = 32;
  }
#endif
  const auto run = [&](auto decode, auto forward, auto backward) {
    return (op == FA_OP_BACKWARD ? backward : family == FA_DECODE ? decode : forward)(p, general, instance->stream);
  };
  switch (dtype) {
    case FA_FLOAT32:
      return run(decode_float32, forward_float32, backward_float32);
    case FA_FLOAT16:
      return run(decode_float16, forward_float16, backward_float16);
    case FA_BFLOAT16:
      return run(decode_bfloat16, forward_bfloat16, backward_bfloat16);
    default:
      return cudaErrorInvalidValue;
  }
}

cudaError_t run_gather(const double* slots, cudaStream_t stream) {
  const auto bytes = [&](int slot) { return static_cast<size_t>(slots[slot]); };
  if (bytes(FA_GATHER_WIDTH) == 0 || bytes(FA_GATHER_ROWS) == 0) return cudaSuccess;
  return cudaMemcpy2DAsync(reinterpret_cast<void*>(bytes(FA_GATHER_TO)), bytes(FA_GATHER_TO_PITCH),
                           reinterpret_cast<const void*>(bytes(FA_GATHER_FROM)), bytes(FA_GATHER_FROM_PITCH),
                           bytes(FA_GATHER_WIDTH), bytes(FA_GATHER_ROWS), cudaMemcpyDeviceToDevice, stream);
}

}  // namespace

void fa_probe(int device, FaProbe* probe) {
  *probe = {};
  probe->runtime = CUDART_VERSION;
  cudaDriverGetVersion(&probe->driver);
  if (probe->driver < probe->runtime / 1000 * 1000) return;
  cudaError_t error = cudaGetDeviceCount(&probe->devices);
  if (error != cudaSuccess) {
    probe->devices = 0;
    if (error != cudaErrorNoDevice) describe(probe->error, error);
    cudaGetLastError();
    return;
  }
  if (device < 0 || device >= probe->devices) return;
  cudaDeviceProp properties;
  const auto ask = [&](int* value, cudaDeviceAttr attribute) {
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(value, attribute, device);
  };
  error = cudaGetDeviceProperties(&properties, device);
  ask(&probe->major, cudaDevAttrComputeCapabilityMajor);
  ask(&probe->minor, cudaDevAttrComputeCapabilityMinor);
  ask(&probe->processors, cudaDevAttrMultiProcessorCount);
  ask(&probe->sharedBytes, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  if (error != cudaSuccess) {
    describe(probe->error, error);
    cudaGetLastError();
    return;
  }
  probe->sm90a = HAS_SM90A && probe->major == 9 && probe->minor == 0;
  probe->memoryBytes = static_cast<double>(properties.totalGlobalMem);
  std::snprintf(probe->name, sizeof probe->name, "%s", properties.name);
}

FaStatus fa_open(int device, FaInstance** instance, char error[256]) {
  auto made = std::make_unique<FaInstance>();
  made->device = device;
  cudaError_t failure = cudaSetDevice(device);
  if (failure == cudaSuccess)
    failure = cudaDeviceGetAttribute(&made->processors, cudaDevAttrMultiProcessorCount, device);
  if (failure == cudaSuccess) failure = cudaStreamCreateWithFlags(&made->stream, cudaStreamNonBlocking);
  void* counters = nullptr;
  if (failure == cudaSuccess) failure = cudaMallocAsync(&counters, 4 * MOST_COUNTERS, made->stream);
  if (failure == cudaSuccess) failure = cudaMemsetAsync(counters, 0, 4 * MOST_COUNTERS, made->stream);
  made->counters = static_cast<unsigned*>(counters);
  if (failure != cudaSuccess) {
    describe(error, failure);
    if (made->stream) cudaStreamDestroy(made->stream);
    cudaGetLastError();
    return failure == cudaErrorMemoryAllocation ? FA_OUT_OF_MEMORY : FA_FAILED;
  }
  *instance = made.release();
  return FA_OK;
}

void fa_close(FaInstance* instance) {
  use_device(instance);
  cudaFreeAsync(instance->counters, instance->stream);
  cudaStreamSynchronize(instance->stream);
  instance->staging.clear();
  cudaStreamDestroy(instance->stream);
  delete instance;
}

const char* fa_error(const FaInstance* instance) { return instance->error; }
void* fa_stream(const FaInstance* instance) { return instance->stream; }

FaStatus fa_allocate(FaInstance* instance, size_t bytes, void** pointer) {
  cudaError_t error = use_device(instance);
  if (error == cudaSuccess) error = cudaMallocAsync(pointer, bytes, instance->stream);
  return status_of(instance, error);
}

FaStatus fa_free(FaInstance* instance, void* pointer) {
  cudaError_t error = use_device(instance);
  if (error == cudaSuccess) error = cudaFreeAsync(pointer, instance->stream);
  return status_of(instance, error);
}

FaStatus fa_fill(FaInstance* instance, void* pointer, int byte, size_t bytes) {
  cudaError_t error = use_device(instance);
  if (error == cudaSuccess) error = cudaMemsetAsync(pointer, byte, bytes, instance->stream);
  return status_of(instance, error);
}

FaStatus fa_upload(FaInstance* instance, void* to, const void* from, size_t bytes) {
  cudaError_t error = use_device(instance);
  for (size_t at = 0; at < bytes && error == cudaSuccess; at += PIECE_BYTES) {
    const size_t piece = std::min(PIECE_BYTES, bytes - at);
    std::unique_ptr<Staging> staging;
    error = instance->staging.take(piece, staging);
    if (error != cudaSuccess) break;
    std::memcpy(staging->pointer, static_cast<const char*>(from) + at, piece);
    error = cudaMemcpyAsync(static_cast<char*>(to) + at, staging->pointer, piece, cudaMemcpyHostToDevice, instance->stream);
    if (error == cudaSuccess) error = cudaEventRecord(staging->copied, instance->stream);
    instance->staging.give(std::move(staging));
  }
  return status_of(instance, error);
}

FaStatus fa_read_begin(FaInstance* instance, const void* from, size_t bytes, FaRead** read) {
  auto made = std::make_unique<FaRead>();
  made->instance = instance;
  made->bytes = bytes;
  cudaError_t error = use_device(instance);
  if (error == cudaSuccess) error = instance->staging.take(bytes, made->staging);
  if (error == cudaSuccess && bytes > 0)
    error = cudaMemcpyAsync(made->staging->pointer, from, bytes, cudaMemcpyDeviceToHost, instance->stream);
  if (error == cudaSuccess) error = cudaEventRecord(made->staging->copied, instance->stream);
  if (error != cudaSuccess) {
    if (made->staging) instance->staging.give(std::move(made->staging));
    return status_of(instance, error);
  }
  *read = made.release();
  return FA_OK;
}

FaStatus fa_read_finish(FaRead* read, void* to, char error[256]) {
  const std::unique_ptr<FaRead> own(read);
  FaInstance* instance = own->instance;
  cudaError_t failure = use_device(instance);
  if (failure == cudaSuccess) failure = cudaEventSynchronize(own->staging->copied);
  if (failure == cudaSuccess && own->bytes > 0) std::memcpy(to, own->staging->pointer, own->bytes);
  instance->staging.give(std::move(own->staging));
  if (failure == cudaSuccess) return FA_OK;
  describe(error, failure);
  // Work that was under way when its context broke: there is no other way for an event to fail.
  return FA_DEAD;
}

FaStatus fa_roof(FaInstance* instance, double* gflops) {
  cudaError_t error = use_device(instance);
  if (error == cudaSuccess) error = measure_roof(instance->processors, gflops, instance->stream);
  return status_of(instance, error);
}

FaStatus fa_run(FaInstance* instance, FaOp op, const double* slots) {
  cudaError_t error = use_device(instance);
  if (error != cudaSuccess) return status_of(instance, error);
  switch (op) {
    case FA_OP_CAST:
      error = run_cast(slots, instance->stream);
      break;
    case FA_OP_FORWARD:
    case FA_OP_BACKWARD:
      error = run_attention(instance, op, slots);
      break;
    case FA_OP_MATMUL:
      error = run_matmul(slots, instance->stream);
      break;
    case FA_OP_COLUMN_SUMS:
      error = run_column_sums(slots, instance->stream);
      break;
    case FA_OP_GATHER:
      error = run_gather(slots, instance->stream);
      break;
    default:
      error = cudaErrorInvalidValue;
  }
  return status_of(instance, error);
}

int fa_kernel(int n, FaKernel* kernel) { return fa::kernel_facts(n, kernel); }
