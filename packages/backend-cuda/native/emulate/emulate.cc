#include "hopper.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

namespace emulate {

Index thread_index, block_index, grid_size, block_size;

namespace {

constexpr std::size_t STACK_BYTES = 64 << 10;
constexpr std::size_t SHARED_BYTES = 227 << 10;
constexpr std::size_t PAGE = 4096;

extern "C" void fa_emulate_switch(void** from, void* to);
// The callee-saved registers go to the stack that is left, and come from the one that is entered.
asm(R"(
.text
.type fa_emulate_switch, @function
fa_emulate_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");

struct Copy {
  u32 to;
  std::uint8_t bytes[16];
};

enum class State { RUNNING, AT_BARRIER, DONE };

struct Fiber {
  std::uint8_t* stack;
  void* pointer;
  State state;
  std::vector<std::vector<Copy>> groups;
  std::vector<Copy> open;
};

struct Warp {
  Exchange exchange;
  int arrived;
  unsigned generation;
};

std::vector<Fiber> fibers;
std::vector<Warp> warps;
void* scheduler;
unsigned current;
const std::function<void()>* kernel_now;
std::uint8_t* shared;
bool barrier_or, barrier_result;
unsigned progress;
std::mutex one_launch;
bool reverse;
/** What is under way: see copy_later. */
std::deque<std::function<void()>> copies;

void enter(unsigned fiber) {
  current = fiber;
  thread_index = {fiber, 0, 0};
  fa_emulate_switch(&scheduler, fibers[fiber].pointer);
}

void body() {
  (*kernel_now)();
  cp_async_wait(0);
  fibers[current].state = State::DONE;
  progress++;
  yield();
  fail("a thread ran on after its end");
}

void prepare(Fiber& fiber) {
  if (!fiber.stack) fiber.stack = static_cast<std::uint8_t*>(std::malloc(STACK_BYTES));
  // As after a call: the stack pointer is 8 off a multiple of 16 when `body` begins.
  auto top = reinterpret_cast<std::uintptr_t>(fiber.stack + STACK_BYTES) & ~std::uintptr_t{15};
  void** words = reinterpret_cast<void**>(top - 8);
  *--words = reinterpret_cast<void*>(body);
  for (int n = 0; n < 6; n++) *--words = nullptr;
  fiber.pointer = words;
  fiber.state = State::RUNNING;
  fiber.groups.clear();
  fiber.open.clear();
}

/** Runs a warp until each of its threads is done, at the barrier, or waits for what others do. */
void run_warp(unsigned warp, unsigned threads) {
  const unsigned first = warp * 32, end = std::min(first + 32, threads);
  unsigned before;
  bool running;
  do {
    before = progress;
    running = false;
    for (unsigned n = first; n < end; n++) {
      if (fibers[n].state != State::RUNNING) continue;
      enter(n);
      running = running || fibers[n].state == State::RUNNING;
    }
  } while (running && progress != before);
}

void run_block(unsigned threads) {
  const unsigned count = (threads + 31) / 32;
  for (unsigned n = 0; n < threads; n++) prepare(fibers[n]);
  for (Warp& warp : warps) warp.arrived = 0;
  barrier_or = false;
  begin_block(threads);
  for (;;) {
    const unsigned before = progress;
    for (unsigned w = 0; w < count; w++) run_warp(reverse ? count - 1 - w : w, threads);
    unsigned done = 0, waiting = 0;
    for (unsigned n = 0; n < threads; n++) {
      done += fibers[n].state == State::DONE;
      waiting += fibers[n].state == State::AT_BARRIER;
    }
    if (done == threads) break;
    if (done + waiting == threads) {
      if (done > 0) fail("part of the block waits at a barrier for threads that are done");
      barrier_result = std::exchange(barrier_or, false);
      for (unsigned n = 0; n < threads; n++) fibers[n].state = State::RUNNING;
    } else if (progress == before) {
      if (copies.empty()) fail("threads wait for what does not come");
      const auto copy = std::move(copies.front());
      copies.pop_front();
      copy();
    }
  }
  if (!copies.empty()) fail("copies are under way when the block ends");
}

float half_to_float(u32 bits) {
  const int exponent = (bits >> 10) & 31;
  const u32 mantissa = bits & 1023;
  float x = exponent == 31 ? (mantissa ? NAN : INFINITY)
            : exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -24)
                            : std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25);
  return bits & 0x8000 ? -x : x;
}

float bits_to_float(u32 bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

/** d + a b for fragments of `PER` elements a word; in: a[4], b[2], d[4]. */
template <int PER, float (*VALUE)(u32)>
void multiply(Exchange& exchange) {
  constexpr int K = 8 * PER;
  float a[16][K], b[8][K];
  for (int lane = 0; lane < 32; lane++) {
    const int g = lane / 4, t = lane % 4;
    for (int word = 0; word < 4; word++) {
      for (int e = 0; e < PER; e++) {
        const u32 bits = PER == 2 ? (exchange.in[lane][word] >> (16 * e)) & 0xffff : exchange.in[lane][word];
        a[g + (word % 2) * 8][(word / 2) * 4 * PER + t * PER + e] = VALUE(bits);
      }
    }
    for (int word = 0; word < 2; word++) {
      for (int e = 0; e < PER; e++) {
        const u32 bits = PER == 2 ? (exchange.in[lane][4 + word] >> (16 * e)) & 0xffff : exchange.in[lane][4 + word];
        b[g][word * 4 * PER + t * PER + e] = VALUE(bits);
      }
    }
  }
  for (int lane = 0; lane < 32; lane++) {
    const int g = lane / 4, t = lane % 4;
    for (int e = 0; e < 4; e++) {
      const float *row = a[g + (e / 2) * 8], *column = b[2 * t + e % 2];
      double sum = bits_to_float(exchange.in[lane][6 + e]);
      for (int k = 0; k < K; k++) sum += static_cast<double>(row[k]) * column[k];
      const float result = truncate(sum);
      std::memcpy(&exchange.out[lane][e], &result, 4);
    }
  }
}

float tf32_value(u32 bits) { return bits_to_float(bits & 0xffffe000u); }
float bf16_value(u32 bits) { return bits_to_float(bits << 16); }

template <void (*MULTIPLY)(Exchange&)>
void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  u32 in[10] = {a[0], a[1], a[2], a[3], b0, b1}, out[4];
  std::memcpy(in + 6, d, 16);
  collective(in, 10, out, 4, MULTIPLY);
  std::memcpy(d, out, 16);
}

template <bool TRANSPOSED>
void load_matrices(Exchange& exchange) {
  for (int matrix = 0; matrix < 4; matrix++) {
    for (int lane = 0; lane < 32; lane++) {
      const int g = lane / 4, t = lane % 4;
      std::uint16_t pair[2];
      for (int e = 0; e < 2; e++) {
        const int row = TRANSPOSED ? 2 * t + e : g, column = TRANSPOSED ? g : 2 * t + e;
        const u32 at = exchange.in[matrix * 8 + row][0];
        if (at % 16 != 0 || at + 16 > SHARED_BYTES) fail("ldmatrix outside shared memory, or not aligned to 16 bytes");
        std::memcpy(&pair[e], shared + at + 2 * column, 2);
      }
      std::memcpy(&exchange.out[lane][matrix], pair, 4);
    }
  }
}

}  // namespace

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "emulated CUDA: %s (block %u, thread %u)\n", what, block_index.x, current);
  std::abort();
}

unsigned thread() { return current; }
void moved() { progress++; }
/** Back to the scheduler, until it is this thread's turn again. */
void yield() { fa_emulate_switch(&fibers[current].pointer, scheduler); }

void copy_later(std::function<void()> copy) {
  if (reverse) copy();
  else copies.push_back(std::move(copy));
}

float truncate(double x) {
  float y = static_cast<float>(x);
  if (std::isfinite(y) && std::fabs(static_cast<double>(y)) > std::fabs(x)) y = std::nextafterf(y, 0.f);
  if (std::isinf(y) && std::isfinite(x)) y = std::copysign(3.4028234663852886e38f, y);
  return y;
}

std::uint8_t* shared_base() { return shared; }

void launch(unsigned grid, unsigned threads, std::size_t sharedBytes, const std::function<void()>& kernel) {
  const std::lock_guard<std::mutex> lock(one_launch);
  const char* order = std::getenv("FA_EMULATE_ORDER");
  reverse = order && std::strcmp(order, "reverse") == 0;
  if (sharedBytes > SHARED_BYTES) fail("more shared memory than there is");
  static std::uint8_t* pages = [] {
    void* at = mmap(nullptr, SHARED_BYTES + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(static_cast<std::uint8_t*>(at) + PAGE, SHARED_BYTES, PROT_READ | PROT_WRITE);
    return static_cast<std::uint8_t*>(at) + PAGE;
  }();
  // The block's share ends where the protected page begins.
  shared = pages + SHARED_BYTES - (sharedBytes + 127) / 128 * 128;
  if (fibers.size() < threads) fibers.resize(threads);
  if (warps.size() < (threads + 31) / 32) warps.resize((threads + 31) / 32);
  kernel_now = &kernel;
  grid_size = {grid, 1, 1};
  block_size = {threads, 1, 1};
  for (unsigned block = 0; block < grid; block++) {
    block_index = {reverse ? grid - 1 - block : block, 0, 0};
    std::memset(shared, 0xff, sharedBytes);
    run_block(threads);
  }
}

void sync_block() { sync_block_or(false); }

bool sync_block_or(bool value) {
  barrier_or = barrier_or || value;
  fibers[current].state = State::AT_BARRIER;
  progress++;
  yield();
  return barrier_result;
}

void collective(const u32* in, int inWords, u32* out, int outWords, void (*compute)(Exchange&)) {
  Warp& warp = warps[current / 32];
  const unsigned lane = current % 32;
  std::memcpy(warp.exchange.in[lane], in, 4 * inWords);
  const unsigned generation = warp.generation;
  progress++;
  if (++warp.arrived == 32) {
    compute(warp.exchange);
    warp.arrived = 0;
    warp.generation++;
  } else {
    while (warp.generation == generation) yield();
  }
  std::memcpy(out, warp.exchange.out[lane], 4 * outWords);
}

bool warp_any(bool value) {
  u32 in = value, out;
  collective(&in, 1, &out, 1, [](Exchange& exchange) {
    u32 any = 0;
    for (const auto& lane : exchange.in) any |= lane[0];
    for (auto& lane : exchange.out) lane[0] = any;
  });
  return out != 0;
}

u32 shuffle(u32 value, int lane) {
  const u32 in[2] = {value, static_cast<u32>(lane)};
  u32 out;
  collective(in, 2, &out, 1, [](Exchange& exchange) {
    for (u32 lane = 0; lane < 32; lane++) exchange.out[lane][0] = exchange.in[exchange.in[lane][1] % 32][0];
  });
  return out;
}

u32 shuffle_xor(u32 value, int mask) {
  const u32 in[2] = {value, static_cast<u32>(mask)};
  u32 out;
  collective(in, 2, &out, 1, [](Exchange& exchange) {
    for (u32 lane = 0; lane < 32; lane++) exchange.out[lane][0] = exchange.in[lane ^ exchange.in[lane][1]][0];
  });
  return out;
}

u32 transpose_8x8(u32 pair) {
  u32 out;
  collective(&pair, 1, &out, 1, [](Exchange& exchange) {
    for (u32 lane = 0; lane < 32; lane++) {
      const u32 g = lane / 4, t = lane % 4;
      const auto element = [&](u32 row, u32 column) { return exchange.in[4 * row + column / 2][0] >> 16 * (column % 2) & 0xffff; };
      exchange.out[lane][0] = element(2 * t, g) | element(2 * t + 1, g) << 16;
    }
  });
  return out;
}

void load16(u32 (&to)[4], const void* from_gmem) {
  if (!from_gmem || reinterpret_cast<std::uintptr_t>(from_gmem) % 16 != 0) fail("a load of 16 bytes that are not aligned");
  std::memcpy(to, from_gmem, 16);
}

void cp_async16(u32 to_smem, const void* from_gmem, u32 bytes) {
  if (to_smem % 16 != 0 || !from_gmem || reinterpret_cast<std::uintptr_t>(from_gmem) % 16 != 0)
    fail("cp.async of 16 bytes that are not aligned");
  Copy copy{to_smem, {}};
  if (bytes > 0) std::memcpy(copy.bytes, from_gmem, bytes);
  fibers[current].open.push_back(copy);
}

void cp_async_commit() {
  Fiber& fiber = fibers[current];
  fiber.groups.push_back(std::move(fiber.open));
  fiber.open.clear();
}

void cp_async_wait(int pending) {
  auto& groups = fibers[current].groups;
  while (groups.size() > static_cast<std::size_t>(pending)) {
    for (const Copy& copy : groups.front()) std::memcpy(shared + copy.to, copy.bytes, 16);
    groups.erase(groups.begin());
  }
}

void ldmatrix_x4(u32 (&to)[4], u32 row_smem) { collective(&row_smem, 1, to, 4, load_matrices<false>); }
void ldmatrix_x4_trans(u32 (&to)[4], u32 row_smem) { collective(&row_smem, 1, to, 4, load_matrices<true>); }
void mma_f16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) { mma<multiply<2, half_to_float>>(d, a, b0, b1); }
void mma_bf16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) { mma<multiply<2, bf16_value>>(d, a, b0, b1); }
void mma_tf32(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) { mma<multiply<1, tf32_value>>(d, a, b0, b1); }

}  // namespace emulate

// ---- the runtime

struct EmulatedStream {};
struct EmulatedEvent {};

namespace {

std::size_t setting(const char* name, std::size_t fallback) {
  const char* text = std::getenv(name);
  return text && *text ? std::strtoull(text, nullptr, 10) : fallback;
}

cudaError_t sticky() { return static_cast<cudaError_t>(setting("FA_EMULATED_ERROR", 0)); }

std::mutex memory_lock;
std::size_t used = 0;

/** Memory that ends, but for 15 bytes at most, where a protected page begins: what reads or writes past it is stopped. */
struct Allocation {
  std::uint8_t* pages;
  std::size_t bytes;
  std::size_t mapped;
};
std::map<void*, Allocation> allocations;

}  // namespace

cudaError_t cudaDriverGetVersion(int* version) {
  *version = static_cast<int>(setting("FA_EMULATED_DRIVER", 13000));
  return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* count) {
  *count = static_cast<int>(setting("FA_EMULATED_DEVICES", 1));
  return *count > 0 ? cudaSuccess : cudaErrorNoDevice;
}
cudaError_t cudaSetDevice(int device) {
  return device < static_cast<int>(setting("FA_EMULATED_DEVICES", 1)) ? sticky() : cudaErrorInvalidDevice;
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return sticky();
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  std::strcpy(properties->name, "emulated on the CPU");
  properties->totalGlobalMem = setting("FA_EMULATED_MEMORY", std::size_t{8} << 30);
  return sticky();
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const int capability = static_cast<int>(setting("FA_EMULATED_CAPABILITY", 89));
  *value = attribute == cudaDevAttrMultiProcessorCount      ? 4
           : attribute == cudaDevAttrComputeCapabilityMajor ? capability / 10
           : attribute == cudaDevAttrComputeCapabilityMinor ? capability % 10
                                                            : static_cast<int>(emulate::SHARED_BYTES);
  return sticky();
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new EmulatedStream;
  return sticky();
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return sticky();
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return sticky(); }
cudaError_t cudaStreamQuery(cudaStream_t) { return sticky(); }
cudaError_t cudaMallocAsync(void** pointer, std::size_t bytes, cudaStream_t) {
  const std::lock_guard<std::mutex> lock(memory_lock);
  if (cudaError_t error = sticky()) return error;
  if (bytes > setting("FA_EMULATED_MEMORY", std::size_t{8} << 30) - used) return cudaErrorMemoryAllocation;
  const std::size_t taken = (bytes + 15) / 16 * 16, inside = (taken + emulate::PAGE - 1) / emulate::PAGE * emulate::PAGE;
  void* pages = mmap(nullptr, inside + 2 * emulate::PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (pages == MAP_FAILED) return cudaErrorMemoryAllocation;
  std::uint8_t* first = static_cast<std::uint8_t*>(pages) + emulate::PAGE;
  mprotect(first, inside, PROT_READ | PROT_WRITE);
  used += bytes;
  *pointer = first + inside - taken;
  allocations[*pointer] = {static_cast<std::uint8_t*>(pages), bytes, inside + 2 * emulate::PAGE};
  std::memset(*pointer, 0xff, bytes);
  return cudaSuccess;
}
cudaError_t cudaFreeAsync(void* pointer, cudaStream_t) {
  const std::lock_guard<std::mutex> lock(memory_lock);
  const auto found = allocations.find(pointer);
  if (found == allocations.end()) return cudaErrorInvalidValue;
  used -= found->second.bytes;
  munmap(found->second.pages, found->second.mapped);
  allocations.erase(found);
  return sticky();
}
cudaError_t cudaHostAlloc(void** pointer, std::size_t bytes, unsigned) {
  *pointer = std::malloc(bytes);
  return *pointer ? sticky() : cudaErrorMemoryAllocation;
}
cudaError_t cudaFreeHost(void* pointer) {
  std::free(pointer);
  return sticky();
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind, cudaStream_t) {
  std::memmove(to, from, bytes);
  return sticky();
}
cudaError_t cudaMemcpy2DAsync(void* to, std::size_t toPitch, const void* from, std::size_t fromPitch, std::size_t width,
                              std::size_t height, cudaMemcpyKind, cudaStream_t) {
  for (std::size_t row = 0; row < height; row++)
    std::memcpy(static_cast<char*>(to) + row * toPitch, static_cast<const char*>(from) + row * fromPitch, width);
  return sticky();
}
cudaError_t cudaMemsetAsync(void* pointer, int value, std::size_t bytes, cudaStream_t) {
  std::memset(pointer, value, bytes);
  return sticky();
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new EmulatedEvent;
  return sticky();
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return sticky();
}
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return sticky(); }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return sticky(); }
cudaError_t cudaEventQuery(cudaEvent_t) { return sticky(); }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
  *milliseconds = 1;
  return sticky();
}
cudaError_t cudaGetLastError() { return sticky(); }
const char* cudaGetErrorName(cudaError_t error) {
  return error == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation"
         : error == cudaErrorIllegalAddress ? "cudaErrorIllegalAddress"
                                            : "an emulated error";
}
const char* cudaGetErrorString(cudaError_t error) { return cudaGetErrorName(error); }
