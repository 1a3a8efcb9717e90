// N-API: unpacks arguments, calls launch.h, and lets a thread of its own wait for the device.
#include <napi.h>

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "launch.h"

namespace {

Napi::Object object_of(Napi::Env env, const FaProbe& probe) {
  Napi::Object result = Napi::Object::New(env);
  result["driver"] = probe.driver;
  result["runtime"] = probe.runtime;
  result["devices"] = probe.devices;
  result["major"] = probe.major;
  result["minor"] = probe.minor;
  result["processors"] = probe.processors;
  result["sharedBytes"] = probe.sharedBytes;
  result["sm90a"] = probe.sm90a != 0;
  result["memoryBytes"] = probe.memoryBytes;
  result["name"] = std::string(probe.name);
  result["error"] = std::string(probe.error);
  return result;
}

/** What was asked of the waiting thread, and what became of it. */
struct Wait {
  /** On the waiting thread. */
  std::function<FaStatus(char error[256])> work;
  /** (status, error, value) on the thread of JavaScript. */
  Napi::FunctionReference done;
  /** Bytes that `work` writes to: kept until it is over. */
  Napi::ObjectReference target;
  FaStatus status = FA_OK;
  char error[256] = "";
  double value = 0;
};

/**
 * One device and stream for one environment of Node. Results that take time are waited for by a thread, one after the other as the
 * stream finishes them, so neither the event loop nor libuv's threads stand still.
 */
class Instance : public Napi::ObjectWrap<Instance> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "Instance",
                       {
                           InstanceMethod<&Instance::allocate>("allocate"),
                           InstanceMethod<&Instance::free>("free"),
                           InstanceMethod<&Instance::fill>("fill"),
                           InstanceMethod<&Instance::upload>("upload"),
                           InstanceMethod<&Instance::read>("read"),
                           InstanceMethod<&Instance::roof>("roof"),
                           InstanceMethod<&Instance::run>("run"),
                           InstanceMethod<&Instance::error>("error"),
                           InstanceMethod<&Instance::close>("close"),
                           InstanceAccessor<&Instance::stream>("stream"),
                       });
  }

  /** (device, slots: Float64Array that `run` reads) */
  explicit Instance(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Instance>(info), env_(info.Env()) {
    char error[256] = "";
    if (fa_open(info[0].As<Napi::Number>(), &instance_, error) != FA_OK) {
      instance_ = nullptr;
      throw Napi::Error::New(env_, error);
    }
    const auto slots = info[1].As<Napi::Float64Array>();
    slots_ = slots.Data();
    slotsReference_ = Napi::Persistent<Napi::Object>(slots);
    finished_ = Napi::ThreadSafeFunction::New(
        env_, Napi::Function::New(env_, [](const Napi::CallbackInfo&) {}), "fa-cuda", 0, 1);
    finished_.Unref(env_);
    napi_add_env_cleanup_hook(env_, &Instance::leave, this);
    thread_ = std::thread([this] { wait(); });
  }

  ~Instance() override {
    if (!left_) napi_remove_env_cleanup_hook(env_, &Instance::leave, this);
    stop();
  }

 private:
  static void* pointer(const Napi::Value& value) {
    return reinterpret_cast<void*>(static_cast<uintptr_t>(value.As<Napi::Number>().DoubleValue()));
  }
  static size_t size(const Napi::Value& value) { return static_cast<size_t>(value.As<Napi::Number>().DoubleValue()); }

  /** bytes -> [status as a negative number, or the pointer] */
  Napi::Value allocate(const Napi::CallbackInfo& info) {
    void* at = nullptr;
    const FaStatus status = instance_ ? fa_allocate(instance_, size(info[0]), &at) : FA_FAILED;
    const double value = status == FA_OK ? static_cast<double>(reinterpret_cast<uintptr_t>(at)) : -static_cast<double>(status);
    return Napi::Number::New(info.Env(), value);
  }
  Napi::Value free(const Napi::CallbackInfo& info) { return status(info, fa_free, pointer(info[0])); }
  /** (pointer, byte, bytes) */
  Napi::Value fill(const Napi::CallbackInfo& info) {
    return status(info, fa_fill, pointer(info[0]), info[1].As<Napi::Number>().Int32Value(), size(info[2]));
  }
  /** (pointer, bytes: Uint8Array) */
  Napi::Value upload(const Napi::CallbackInfo& info) {
    const auto from = info[1].As<Napi::Uint8Array>();
    return status(info, fa_upload, pointer(info[0]), from.Data(), from.ByteLength());
  }
  /** op; the arguments are in the slots */
  Napi::Value run(const Napi::CallbackInfo& info) {
    return status(info, fa_run, static_cast<FaOp>(info[0].As<Napi::Number>().Int32Value()), slots_);
  }

  template <class... Parameters, class... Arguments>
  Napi::Value status(const Napi::CallbackInfo& info, FaStatus (*call)(FaInstance*, Parameters...), Arguments... arguments) {
    return Napi::Number::New(info.Env(), instance_ ? call(instance_, arguments...) : FA_FAILED);
  }

  /** (pointer, target: Uint8Array, done) */
  Napi::Value read(const Napi::CallbackInfo& info) {
    auto target = info[1].As<Napi::Uint8Array>();
    FaRead* read = nullptr;
    const FaStatus status =
        instance_ ? fa_read_begin(instance_, pointer(info[0]), target.ByteLength(), &read) : FA_FAILED;
    if (status != FA_OK) return Napi::Number::New(info.Env(), status);
    auto wait = std::make_unique<Wait>();
    wait->target = Napi::Persistent<Napi::Object>(target);
    wait->done = Napi::Persistent(info[2].As<Napi::Function>());
    wait->work = [read, to = target.Data()](char error[256]) { return fa_read_finish(read, to, error); };
    add(std::move(wait));
    return Napi::Number::New(info.Env(), FA_OK);
  }

  /** (done) */
  Napi::Value roof(const Napi::CallbackInfo& info) {
    if (!instance_) return Napi::Number::New(info.Env(), FA_FAILED);
    auto wait = std::make_unique<Wait>();
    wait->done = Napi::Persistent(info[0].As<Napi::Function>());
    wait->work = [instance = instance_, own = wait.get()](char error[256]) {
      const FaStatus status = fa_roof(instance, &own->value);
      if (status != FA_OK) std::snprintf(error, 256, "%s", fa_error(instance));
      return status;
    };
    add(std::move(wait));
    return Napi::Number::New(info.Env(), FA_OK);
  }

  Napi::Value error(const Napi::CallbackInfo& info) {
    return Napi::String::New(info.Env(), instance_ ? fa_error(instance_) : "the instance is closed");
  }
  Napi::Value stream(const Napi::CallbackInfo& info) {
    const auto at = instance_ ? reinterpret_cast<uintptr_t>(fa_stream(instance_)) : 0;
    return Napi::Number::New(info.Env(), static_cast<double>(at));
  }
  void close(const Napi::CallbackInfo&) { stop(); }

  // ---- the thread that waits

  void add(std::unique_ptr<Wait> wait) {
    // Neither the process nor this object goes while somebody waits to be told.
    if (pending_++ == 0) finished_.Ref(env_), Ref();
    {
      const std::lock_guard<std::mutex> lock(lock_);
      waits_.push_back(std::move(wait));
    }
    wake_.notify_one();
  }

  void wait() {
    for (;;) {
      std::unique_ptr<Wait> next;
      {
        std::unique_lock<std::mutex> lock(lock_);
        wake_.wait(lock, [this] { return stopping_ || !waits_.empty(); });
        // What was asked is done, also while stopping: others' memory hangs on it.
        if (waits_.empty()) return;
        next = std::move(waits_.front());
        waits_.pop_front();
      }
      next->status = next->work(next->error);
      Wait* over = next.release();
      const napi_status told = finished_.NonBlockingCall(over, [this](Napi::Env env, Napi::Function, Wait* wait) {
        const std::unique_ptr<Wait> own(wait);
        if (--pending_ == 0) finished_.Unref(env), Unref();
        own->done.Call({Napi::Number::New(env, own->status), Napi::String::New(env, own->error),
                        Napi::Number::New(env, own->value)});
      });
      // The environment is going down, with nobody left to be told; its references go with it.
      if (told != napi_ok) over->done.SuppressDestruct(), over->target.SuppressDestruct(), delete over;
    }
  }

  void stop() {
    if (!instance_) return;
    {
      const std::lock_guard<std::mutex> lock(lock_);
      stopping_ = true;
    }
    wake_.notify_one();
    thread_.join();
    finished_.Release();
    fa_close(instance_);
    instance_ = nullptr;
  }

  static void leave(void* instance) {
    auto* self = static_cast<Instance*>(instance);
    self->left_ = true;
    self->stop();
  }

  Napi::Env env_;
  FaInstance* instance_ = nullptr;
  const double* slots_ = nullptr;
  Napi::ObjectReference slotsReference_;
  Napi::ThreadSafeFunction finished_;
  /** Of the thread of JavaScript alone. */
  int pending_ = 0;
  bool left_ = false;
  std::thread thread_;
  std::mutex lock_;
  std::condition_variable wake_;
  std::deque<std::unique_ptr<Wait>> waits_;
  bool stopping_ = false;
};

Napi::Value probe(const Napi::CallbackInfo& info) {
  FaProbe found;
  fa_probe(info[0].As<Napi::Number>(), &found);
  return object_of(info.Env(), found);
}

Napi::Value kernels(const Napi::CallbackInfo& info) {
  Napi::Array all = Napi::Array::New(info.Env());
  FaKernel kernel;
  for (int n = 0; fa_kernel(n, &kernel); n++) {
    Napi::Object row = Napi::Object::New(info.Env());
    row["op"] = kernel.op;
    row["family"] = kernel.family;
    row["dtype"] = kernel.dtype;
    row["headDim"] = kernel.headDim;
    row["tileQ"] = kernel.tileQ;
    row["tileKV"] = kernel.tileKV;
    row["threads"] = kernel.threads;
    row["sharedBytes"] = kernel.sharedBytes;
    all[static_cast<uint32_t>(n)] = row;
  }
  return all;
}

Napi::Object initialise(Napi::Env env, Napi::Object exports) {
  exports["probe"] = Napi::Function::New(env, probe);
  exports["kernels"] = Napi::Function::New(env, kernels);
  exports["Instance"] = Instance::define(env);
  return exports;
}

}  // namespace

NODE_API_MODULE(fa_cuda, initialise)
