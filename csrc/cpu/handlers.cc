// A handler reads its buffers into a Problem, checks it, divides the work and
// calls kernels. It answers with an ffi::Error, never with a crash: whatever a
// hand-written program passes in, no memory beyond its buffers is touched.

#include "cpu/handlers.h"

#include <atomic>
#include <cstdint>
#include <exception>
#include <string>
#include <string_view>

#include "buffers.h"
#include "cpu/dispatch.h"
#include "cpu/kernels.h"
#include "cpu/memory.h"
#include "cpu/parallel.h"
#include "cpu/plan.h"
#include "problem.h"
#include "subnormals.h"

namespace jax_roipool::cpu {
namespace {

namespace ffi = ::xla::ffi;

// Runs a kernel over the plan's units, on XLA's threads as far as they are
// free.
ffi::Error RunUnits(ffi::ThreadPool& pool, const Plan& plan, const Call& call,
                    ScratchUse use, Kernel kernel) {
  const int64_t scratch_bytes = ScratchBytes(call.problem, plan, use);
  BlockPool blocks(scratch_bytes);
  std::atomic<bool> out_of_memory{false};
  ParallelFor(
      static_cast<int64_t>(plan.units.size()), plan.helpers,
      [&](auto task) { pool.Schedule(std::move(task)); },
      [&](int64_t turn) {
        const SubnormalsKept subnormals_kept;
        const BlockPool::Lease block(&blocks);
        if (block.get() == nullptr && scratch_bytes > 0) {
          out_of_memory.store(true, std::memory_order_relaxed);
          return;
        }
        kernel(call, plan.units[turn],
               MakeScratch(call.problem, plan, use, block.get()));
      });
  if (out_of_memory.load(std::memory_order_relaxed)) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted,
                      "jax_roipool: no memory for " +
                          std::to_string(scratch_bytes) +
                          " bytes of scratch space");
  }
  return ffi::Error::Success();
}

// What a handler does, `body`, on XLA's thread: it makes plans, which allocate,
// and checks and multiplies coordinates and scales.
template <typename Body>
ffi::Error Guarded(const Body& body) {
  const SubnormalsKept subnormals_kept;
  try {
    return body();
  } catch (const std::exception& error) {
    return ffi::Error(
        ffi::ErrorCode::kResourceExhausted,
        std::string("jax_roipool: no memory for the call's plan: ") +
            error.what());
  }
}

int64_t Threads(const ffi::ThreadPool& pool) {
  return pool.num_threads() + 1;  // the caller works too
}

ffi::Error Pool(ffi::ThreadPool& pool, const ffi::AnyBuffer& features,
                const Boxes& boxes, const Indices& image, Scale scale,
                std::string_view layout, const ffi::AnyBuffer& pooled,
                const Indices* argmax) {
  return Guarded([&]() -> ffi::Error {
    Problem problem;
    std::string wrong = ReadProblem(features, image, pooled, layout, &problem);
    if (wrong.empty()) wrong = CheckPool(boxes, image, scale, pooled, argmax);
    if (!wrong.empty()) return InvalidArgument(std::move(wrong));
    if (pooled.element_count() == 0) return ffi::Error::Success();

    PreferHugePages(pooled.untyped_data(), pooled.size_bytes());
    if (argmax != nullptr) {
      PreferHugePages(argmax->untyped_data(), argmax->size_bytes());
    }
    const KernelTable& table = CurrentTarget();
    const Plan plan =
        PlanPool(problem, scale, boxes.typed_data(), image.typed_data(),
                 argmax != nullptr, table.vector_bytes, Threads(pool));
    Call call{};
    call.problem = problem;
    call.order = plan.order.data();
    call.map_of = plan.map_of.data();
    call.rows = plan.rows.data();
    call.columns = plan.columns.data();
    call.map = features.untyped_data();
    call.pooled = pooled.untyped_data();
    if (argmax != nullptr) call.argmax_out = argmax->typed_data();
    return RunUnits(
        pool, plan, call,
        argmax != nullptr ? ScratchUse::kPoolArgmax : ScratchUse::kPool,
        table.pool[static_cast<int>(problem.element)]);
  });
}

ffi::Error RoiPool(ffi::ThreadPool pool, ffi::AnyBuffer features, Boxes boxes,
                   Indices image, ffi::Result<ffi::AnyBuffer> pooled,
                   float scale_height, float scale_width,
                   std::string_view layout) {
  return Pool(pool, features, boxes, image, {scale_height, scale_width}, layout,
              *pooled, nullptr);
}

ffi::Error RoiPoolArgmax(ffi::ThreadPool pool, ffi::AnyBuffer features,
                         Boxes boxes, Indices image,
                         ffi::Result<ffi::AnyBuffer> pooled,
                         ffi::Result<Indices> argmax, float scale_height,
                         float scale_width, std::string_view layout) {
  return Pool(pool, features, boxes, image, {scale_height, scale_width}, layout,
              *pooled, &*argmax);
}

// Gather reads a map and writes pooled; scatter, its transpose, reads pooled (a
// cotangent) and writes a map (a gradient).
enum class Linear { kGather, kScatter };

ffi::Error RunLinear(ffi::ThreadPool& pool, Linear op,
                     const ffi::AnyBuffer& map, const Indices& image,
                     const Indices& argmax, const ffi::AnyBuffer& pooled,
                     std::string_view layout) {
  return Guarded([&]() -> ffi::Error {
    Problem problem;
    std::string wrong =
        ReadLinear(map, image, argmax, pooled, layout, &problem);
    if (!wrong.empty()) return InvalidArgument(std::move(wrong));
    const bool gather = op == Linear::kGather;
    const ffi::AnyBuffer& result = gather ? pooled : map;
    if (result.element_count() == 0) return ffi::Error::Success();

    PreferHugePages(result.untyped_data(), result.size_bytes());
    const KernelTable& table = CurrentTarget();
    const Plan plan =
        gather ? PlanGather(problem, image.typed_data(), Threads(pool))
               : PlanScatter(problem, image.typed_data(), Threads(pool));
    Call call{};
    call.problem = problem;
    call.order = plan.order.data();
    call.map_of = plan.map_of.data();
    call.argmax = argmax.typed_data();
    if (gather) {
      call.map = map.untyped_data();
      call.pooled = pooled.untyped_data();
    } else {
      call.cotangent = pooled.untyped_data();
      call.gradient = map.untyped_data();
    }
    const int element = static_cast<int>(problem.element);
    return RunUnits(pool, plan, call,
                    gather ? ScratchUse::kNone : ScratchUse::kScatter,
                    gather ? table.gather[element] : table.scatter[element]);
  });
}

ffi::Error RoiGather(ffi::ThreadPool pool, ffi::AnyBuffer tangent,
                     Indices image, Indices argmax,
                     ffi::Result<ffi::AnyBuffer> pooled,
                     std::string_view layout) {
  return RunLinear(pool, Linear::kGather, tangent, image, argmax, *pooled,
                   layout);
}

ffi::Error RoiScatter(ffi::ThreadPool pool, ffi::AnyBuffer cotangent,
                      Indices image, Indices argmax,
                      ffi::Result<ffi::AnyBuffer> gradient,
                      std::string_view layout) {
  return RunLinear(pool, Linear::kScatter, *gradient, image, argmax, cotangent,
                   layout);
}

XLA_FFI_DEFINE_HANDLER(kRoiPool, RoiPool,
                       WithPoolAttributes(BindPool<ffi::ThreadPool>()));
XLA_FFI_DEFINE_HANDLER(
    kRoiPoolArgmax, RoiPoolArgmax,
    WithPoolAttributes(BindPool<ffi::ThreadPool>().Ret<Indices>()));
XLA_FFI_DEFINE_HANDLER(kRoiGather, RoiGather,
                       WithLinearAttributes(BindLinear<ffi::ThreadPool>()));
XLA_FFI_DEFINE_HANDLER(kRoiScatter, RoiScatter,
                       WithLinearAttributes(BindLinear<ffi::ThreadPool>()));

}  // namespace

const Handler kHandlers[4] = {
    {"roi_pool", kRoiPool},
    {"roi_pool_argmax", kRoiPoolArgmax},
    {"roi_gather", kRoiGather},
    {"roi_scatter", kRoiScatter},
};

}  // namespace jax_roipool::cpu
