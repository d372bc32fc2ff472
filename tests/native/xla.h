// What XLA is to a handler: call frames and a pool of threads, by the C API
// that jaxlib's headers give. No jaxlib runs here.

#ifndef JAX_ROIPOOL_TESTS_NATIVE_XLA_H_
#define JAX_ROIPOOL_TESTS_NATIVE_XLA_H_

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "xla/ffi/api/c_api.h"

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

// To handlers this is opaque; to XLA it is not.
struct XLA_FFI_Error {
  std::string message;
  XLA_FFI_Error_Code code;
};

namespace jax_roipool::native {

// XLA's threads flush subnormal numbers to zero; handlers must not mind, and
// must leave it so.
class SubnormalsFlushed {
#if defined(__SSE2__)
 public:
  SubnormalsFlushed() { _mm_setcsr(saved_ | kFlush); }
  ~SubnormalsFlushed() { _mm_setcsr(saved_); }
  bool Still() const { return (_mm_getcsr() & kFlush) == kFlush; }

 private:
  static constexpr unsigned kFlush = 0x8040;
  const unsigned saved_ = _mm_getcsr();
#else
 public:
  SubnormalsFlushed() {}
  bool Still() const { return true; }
#endif
};

class ThreadPool {
 public:
  explicit ThreadPool(int threads) {
    for (int i = 0; i < threads; ++i) {
      threads_.emplace_back([this] { Work(); });
    }
  }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      closing_ = true;
    }
    changed_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  int64_t size() const { return static_cast<int64_t>(threads_.size()); }
  int64_t scheduled() const { return scheduled_; }

  void Schedule(XLA_FFI_Task* task, void* data) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      tasks_.emplace_back(task, data);
      ++scheduled_;
    }
    changed_.notify_one();
  }

 private:
  void Work() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return closing_ || !tasks_.empty(); });
      if (tasks_.empty()) return;
      const auto [task, data] = tasks_.front();
      tasks_.pop_front();
      lock.unlock();
      {
        const SubnormalsFlushed as_xla_does;
        task(data);
      }
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::pair<XLA_FFI_Task*, void*>> tasks_;
  bool closing_ = false;
  int64_t scheduled_ = 0;
  std::vector<std::thread> threads_;
};

struct Buffer {
  XLA_FFI_DataType type;
  void* data;
  std::vector<int64_t> dims;
};

struct Attribute {
  std::string name;
  std::variant<float, double, int64_t, std::string, bool> value;
};

// What a program says to a handler. Attributes are sorted by name, as XLA has
// them.
struct Frame {
  std::vector<Buffer> operands, results;
  std::vector<Attribute> attributes;
};

struct Answer {
  XLA_FFI_Error_Code code = XLA_FFI_Error_Code_OK;
  std::string message;
};

// `pool` may be null: then there is none.
inline Answer Invoke(XLA_FFI_Handler* handler, ThreadPool* pool, Frame frame) {
  static const XLA_FFI_Api api = [] {
    XLA_FFI_Api made{};
    made.struct_size = XLA_FFI_Api_STRUCT_SIZE;
    made.api_version.struct_size = XLA_FFI_Api_Version_STRUCT_SIZE;
    made.api_version.major_version = XLA_FFI_API_MAJOR;
    made.api_version.minor_version = XLA_FFI_API_MINOR;
    made.XLA_FFI_Error_Create = [](XLA_FFI_Error_Create_Args* args) {
      return new XLA_FFI_Error{args->message, args->errc};
    };
    made.XLA_FFI_Error_Destroy = [](XLA_FFI_Error_Destroy_Args* args) {
      delete args->error;
    };
    made.XLA_FFI_ThreadPool_Schedule =
        [](XLA_FFI_ThreadPool_Schedule_Args* args) -> XLA_FFI_Error* {
      reinterpret_cast<ThreadPool*>(args->ctx)->Schedule(args->task,
                                                         args->data);
      return nullptr;
    };
    made.XLA_FFI_ThreadPool_NumThreads =
        [](XLA_FFI_ThreadPool_NumThreads_Args* args) -> XLA_FFI_Error* {
      if (args->ctx == nullptr) {
        return new XLA_FFI_Error{"no pool", XLA_FFI_Error_Code_UNIMPLEMENTED};
      }
      *args->num_threads = reinterpret_cast<ThreadPool*>(args->ctx)->size();
      return nullptr;
    };
    return made;
  }();

  const auto described = [](std::vector<Buffer>* buffers) {
    std::vector<XLA_FFI_Buffer> result;
    for (Buffer& buffer : *buffers) {
      result.push_back({XLA_FFI_Buffer_STRUCT_SIZE, nullptr, buffer.type,
                        buffer.data, static_cast<int64_t>(buffer.dims.size()),
                        buffer.dims.data()});
    }
    return result;
  };
  const auto pointers = [](auto* values) {
    std::vector<void*> result;
    for (auto& value : *values) result.push_back(&value);
    return result;
  };
  std::vector<XLA_FFI_Buffer> operands = described(&frame.operands);
  std::vector<XLA_FFI_Buffer> results = described(&frame.results);
  std::vector<void*> operand_pointers = pointers(&operands);
  std::vector<void*> result_pointers = pointers(&results);
  std::vector<XLA_FFI_ArgType> operand_types(operands.size(),
                                             XLA_FFI_ArgType_BUFFER);
  std::vector<XLA_FFI_RetType> result_types(results.size(),
                                            XLA_FFI_RetType_BUFFER);

  std::vector<XLA_FFI_AttrType> types;
  std::vector<XLA_FFI_ByteSpan> names, strings;
  std::vector<XLA_FFI_Scalar> scalars;
  for (Attribute& attribute : frame.attributes) {
    names.push_back({attribute.name.data(), attribute.name.size()});
    auto* text = std::get_if<std::string>(&attribute.value);
    types.push_back(text != nullptr ? XLA_FFI_AttrType_STRING
                                    : XLA_FFI_AttrType_SCALAR);
    strings.push_back(text != nullptr
                          ? XLA_FFI_ByteSpan{text->data(), text->size()}
                          : XLA_FFI_ByteSpan{});
    constexpr XLA_FFI_DataType kTypes[] = {
        XLA_FFI_DataType_F32, XLA_FFI_DataType_F64, XLA_FFI_DataType_S64,
        XLA_FFI_DataType_INVALID, XLA_FFI_DataType_PRED};
    scalars.push_back({kTypes[attribute.value.index()],
                       std::visit([](auto& value) -> void* { return &value; },
                                  attribute.value)});
  }
  std::vector<XLA_FFI_ByteSpan*> name_pointers;
  std::vector<void*> values;
  for (size_t i = 0; i < names.size(); ++i) {
    name_pointers.push_back(&names[i]);
    values.push_back(types[i] == XLA_FFI_AttrType_STRING
                         ? static_cast<void*>(&strings[i])
                         : &scalars[i]);
  }

  XLA_FFI_CallFrame call{};
  call.struct_size = XLA_FFI_CallFrame_STRUCT_SIZE;
  call.api = &api;
  call.ctx = reinterpret_cast<XLA_FFI_ExecutionContext*>(pool);
  call.stage = XLA_FFI_ExecutionStage_EXECUTE;
  call.args = {XLA_FFI_Args_STRUCT_SIZE, nullptr,
               static_cast<int64_t>(operands.size()), operand_types.data(),
               operand_pointers.data()};
  call.rets = {XLA_FFI_Rets_STRUCT_SIZE, nullptr,
               static_cast<int64_t>(results.size()), result_types.data(),
               result_pointers.data()};
  call.attrs = {XLA_FFI_Attrs_STRUCT_SIZE,
                nullptr,
                static_cast<int64_t>(types.size()),
                types.data(),
                name_pointers.data(),
                values.data()};
  const SubnormalsFlushed as_xla_does;
  XLA_FFI_Error* error = handler(&call);
  if (!as_xla_does.Still()) return {XLA_FFI_Error_Code_INTERNAL, "subnormals"};
  if (error == nullptr) return {};
  Answer answer{error->code, error->message};
  delete error;
  return answer;
}

}  // namespace jax_roipool::native

#endif  // JAX_ROIPOOL_TESTS_NATIVE_XLA_H_
