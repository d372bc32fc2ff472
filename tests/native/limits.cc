// The arrays are mapped and not filled: a page that nobody touches takes no
// memory. Plans are made for the whole call, and of their units those run that
// touch the far end.

#include "limits.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/kernels.h"
#include "cpu/plan.h"
#include "problem.h"

namespace jax_roipool::native {
namespace {

// Zeros, as many as are wanted.
template <typename T>
class Sparse {
 public:
  explicit Sparse(int64_t count) : bytes_(count * sizeof(T)) {
    void* data = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED) {
      std::perror("mmap");
      std::abort();
    }
    data_ = static_cast<T*>(data);
  }
  Sparse(const Sparse&) = delete;
  Sparse& operator=(const Sparse&) = delete;
  ~Sparse() { munmap(data_, bytes_); }
  T* data() const { return data_; }
  T& operator[](int64_t i) const { return data_[i]; }

 private:
  size_t bytes_;
  T* data_;
};

void Demand(bool right, const char* what, const cpu::KernelTable& table,
            Layout layout) {
  if (right) return;
  std::fprintf(stderr, "%s, %s, %s\n", what, table.name,
               layout == Layout::kNHWC ? "NHWC" : "NCHW");
  std::abort();
}

int64_t Place(Layout layout, int64_t cells, int64_t cell, int64_t channels,
              int64_t channel) {
  return layout == Layout::kNHWC ? cell * channels + channel
                                 : channel * cells + cell;
}

void RunUnit(const cpu::Plan& plan, cpu::Call call, cpu::ScratchUse use,
             const cpu::Unit& unit, cpu::Kernel kernel) {
  call.order = plan.order.data();
  call.map_of = plan.map_of.data();
  call.rows = plan.rows.data();
  call.columns = plan.columns.data();
  std::vector<double> scratch(cpu::ScratchBytes(call.problem, plan, use) / 8 +
                              8);
  const auto at = reinterpret_cast<uintptr_t>(scratch.data());
  kernel(call, unit,
         cpu::MakeScratch(call.problem, plan, use,
                          scratch.data() + (-at & 63) / 8));
}

constexpr int kElement = static_cast<int>(Element::kFloat32);

// Of the last RoI of a few: 2.7 * 10^9 numbers in the map.
void PoolFromLargeMap(const cpu::KernelTable& table, Layout layout) {
  constexpr int64_t kSide = 30000, kChannels = 3;
  const Problem p{layout, Element::kFloat32, 1, 1, kSide,
                  kSide,  kChannels,         1, 1, 1};
  const Sparse<float> map(p.map_size());
  const float box[] = {kSide - 6, kSide - 7, kSide + 100, kSide + 100};
  const int32_t image = 0;
  for (int64_t c = 0; c < kChannels; ++c) {
    const int64_t cell = (kSide - 1 - c) * kSide + kSide - 2 - c;
    map[Place(layout, p.cells(), cell, kChannels, c)] =
        static_cast<float>(c + 1);
  }
  float pooled[kChannels] = {};
  int32_t argmax[kChannels] = {};
  cpu::Call call{};
  call.problem = p;
  call.map = map.data();
  call.pooled = pooled;
  call.argmax_out = argmax;
  const cpu::Plan plan =
      cpu::PlanPool(p, {1, 1}, box, &image, true, table.vector_bytes, 1);
  RunUnit(plan, call, cpu::ScratchUse::kPoolArgmax, plan.units.at(0),
          table.pool[kElement]);

  float gathered[kChannels] = {};
  cpu::Call gather{};
  gather.problem = p;
  gather.map = map.data();
  gather.argmax = argmax;
  gather.pooled = gathered;
  const cpu::Plan of_gather = cpu::PlanGather(p, &image, 1);
  RunUnit(of_gather, gather, cpu::ScratchUse::kNone, of_gather.units.at(0),
          table.gather[kElement]);
  for (int64_t c = 0; c < kChannels; ++c) {
    const auto value = static_cast<float>(c + 1);
    Demand(pooled[c] == value && gathered[c] == value, "a large map", table,
           layout);
    Demand(argmax[c] == (kSide - 1 - c) * kSide + kSide - 2 - c,
           "a large map's cell", table, layout);
  }
}

// The last of many maps: 4.3 * 10^9 numbers in all.
void PoolAndScatterAmongManyMaps(const cpu::KernelTable& table, Layout layout) {
  const Problem p{layout, Element::kFloat32, 16, 256, 64, 64, 256, 1, 1, 1};
  const int64_t maps = p.groups * p.images;
  const Sparse<float> map(maps * p.map_size());
  std::vector<float> boxes, cotangent(p.groups * p.channels, 1);
  std::vector<int32_t> image(p.groups, -1);
  image.back() = static_cast<int32_t>(p.images - 1);
  for (int64_t group = 0; group < p.groups; ++group) {
    boxes.insert(boxes.end(), {60, 60, 63, 63});
  }
  const int64_t first = (maps - 1) * p.map_size(), cell = p.cells() - 1;
  for (int64_t c = 0; c < p.channels; ++c) {
    map[first + Place(layout, p.cells(), cell, p.channels, c)] =
        static_cast<float>(c + 1);
  }
  std::vector<float> pooled(p.groups * p.channels, -1);
  std::vector<int32_t> argmax(p.groups * p.channels, -7);
  cpu::Call call{};
  call.problem = p;
  call.map = map.data();
  call.pooled = pooled.data();
  call.argmax_out = argmax.data();
  const cpu::Plan plan = cpu::PlanPool(p, {1, 1}, boxes.data(), image.data(),
                                       true, table.vector_bytes, 1);
  for (const cpu::Unit& unit : plan.units) {
    RunUnit(plan, call, cpu::ScratchUse::kPoolArgmax, unit,
            table.pool[kElement]);
  }
  const int64_t last_roi = (p.groups - 1) * p.channels;
  for (int64_t c = 0; c < p.channels; ++c) {
    Demand(pooled[last_roi + c] == static_cast<float>(c + 1) &&
               argmax[last_roi + c] == cell && pooled[c] == 0 &&
               argmax[c] == -1,
           "many maps", table, layout);
  }

  cpu::Call scatter{};
  scatter.problem = p;
  scatter.cotangent = cotangent.data();
  scatter.argmax = argmax.data();
  scatter.gradient = map.data();
  const cpu::Plan of_scatter = cpu::PlanScatter(p, image.data(), 1);
  for (const cpu::Unit& unit : of_scatter.units) {
    if (unit.map != maps - 1) continue;
    RunUnit(of_scatter, scatter, cpu::ScratchUse::kScatter, unit,
            table.scatter[kElement]);
  }
  for (int64_t c = 0; c < p.channels; ++c) {
    const int64_t from = first + Place(layout, p.cells(), 0, p.channels, c);
    const int64_t to = first + Place(layout, p.cells(), cell, p.channels, c);
    Demand(map[to] == 1 && map[from] == 0, "many gradients", table, layout);
  }
}

// The last of many RoIs: 4.3 * 10^9 results.
void PoolManyRois(const cpu::KernelTable& table, Layout layout) {
  const Problem p{layout, Element::kFloat32, 1,  1, 4, 4,
                  64,     int64_t{1} << 18,  16, 16};
  const Sparse<float> pooled(p.rois * p.pooled_size());
  const Sparse<int32_t> argmax(p.rois * p.pooled_size());
  std::vector<float> map(p.map_size(), 1), boxes(4 * p.rois, 0);
  std::vector<int32_t> image(p.rois, -1);
  image.back() = 0;
  boxes[4 * p.rois - 2] = boxes[4 * p.rois - 1] = 3;
  cpu::Call call{};
  call.problem = p;
  call.map = map.data();
  call.pooled = pooled.data();
  call.argmax_out = argmax.data();
  const cpu::Plan plan = cpu::PlanPool(p, {1, 1}, boxes.data(), image.data(),
                                       true, table.vector_bytes, 1 << 12);
  cpu::Call gather{};
  gather.problem = p;
  gather.map = map.data();
  gather.argmax = argmax.data();
  gather.pooled = pooled.data();
  const cpu::Plan of_gather = cpu::PlanGather(p, image.data(), 1 << 12);
  const auto run_last = [&](const cpu::Plan& whole, const cpu::Call& with,
                            cpu::ScratchUse use, cpu::Kernel kernel) {
    for (cpu::Unit unit : whole.units) {
      for (int64_t i = unit.roi_begin; i < unit.roi_end; ++i) {
        if (whole.order[i] != p.rois - 1) continue;
        if (unit.source != cpu::Source::kSharedTable) {
          unit.roi_begin = i;
          unit.roi_end = i + 1;
        }
        RunUnit(whole, with, use, unit, kernel);
        break;
      }
    }
  };
  run_last(plan, call, cpu::ScratchUse::kPoolArgmax, table.pool[kElement]);
  const int64_t begin = (p.rois - 1) * p.pooled_size();
  for (int64_t i = begin; i < begin + p.pooled_size(); ++i) {
    Demand(pooled[i] == 1 && argmax[i] >= 0 && argmax[i] < p.cells(),
           "many RoIs", table, layout);
    pooled[i] = 0;
  }
  run_last(of_gather, gather, cpu::ScratchUse::kNone, table.gather[kElement]);
  for (int64_t i = begin; i < begin + p.pooled_size(); ++i) {
    Demand(pooled[i] == 1, "many gathered", table, layout);
  }
}

}  // namespace

int RunLimits() {
  for (const cpu::KernelTable* table : cpu::SupportedTargets()) {
    for (const Layout layout : {Layout::kNHWC, Layout::kNCHW}) {
      PoolFromLargeMap(*table, layout);
      PoolAndScatterAmongManyMaps(*table, layout);
      PoolManyRois(*table, layout);
    }
  }
  std::printf("limits: right past 2^31 elements\n");
  return 0;
}

}  // namespace jax_roipool::native
