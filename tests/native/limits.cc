// Arrays past 2^31 elements.
//
// The arrays are mapped and not filled: a page that nobody touches takes no
// memory. Plans are made for the whole call, and of their units those run that
// touch the far end.

#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/scratch.h"
#include "frames.h"
#include "ops/argmax/cpu_plans.h"
#include "ops/bands/cpu_plans.h"
#include "ops/max/cpu_plan.h"
#include "sizes.h"

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

void Demand(bool right, const char* what, cpu::Isa isa, Layout layout) {
  if (right) return;
  Fail(std::string(what) + ", " + cpu::NameOf(isa) +
       (layout == Layout::kNHWC ? ", NHWC" : ", NCHW"));
}

int64_t Place(const Maps& maps, int64_t cell, int64_t channel) {
  return maps.layout == Layout::kNHWC ? cell * maps.channels + channel
                                      : channel * maps.levels[0].cells() + cell;
}

RoiCall RoisOf(const Sizes& p, const int32_t* image_index) {
  return {p.maps, p.rois, p.bins, image_index, nullptr};
}

template <class Plan, class Planned, class Unit, class Kernel>
void RunUnit(const Plan& plan, const Planned& planned, const Unit& unit,
             Kernel kernel) {
  std::vector<double> scratch(cpu::ScratchBytes(plan) / 8 + 8);
  const auto at = reinterpret_cast<uintptr_t>(scratch.data());
  cpu::ScratchCutter cutter(scratch.data() + (-at & 63) / 8);
  kernel(planned, unit, plan.CutScratch(&cutter));
}

// One op of each kind, for an instruction set, of float32.
constexpr int kElement = static_cast<int>(Element::kFloat32);
auto PoolKernel(cpu::Isa isa) {
  return cpu::MaxPoolKernelsFor(isa).pool[kElement];
}
auto GatherKernel(cpu::Isa isa) {
  return cpu::ArgmaxGatherKernelsFor(isa).gather[kElement];
}
auto ScatterKernel(cpu::Isa isa) {
  return cpu::ArgmaxScatterKernelsFor(isa).scatter[kElement];
}
cpu::MaxPoolPlan PlanPool(const MaxPoolCall& call, cpu::Isa isa,
                          int64_t threads) {
  return cpu::PlanMaxPool(call, cpu::MaxPoolKernelsFor(isa).vector_bytes,
                          threads);
}

// Of the last RoI of a few: 2.7 * 10^9 numbers in the map.
void PoolFromLargeMap(cpu::Isa isa, Layout layout) {
  constexpr int64_t kSide = 30000, kChannels = 3;
  const Sizes p(layout, Element::kFloat32, 1, 1, kSide, kSide, kChannels, 1, 1,
                1);
  const Sparse<float> map(p.map_numbers());
  const float box[] = {kSide - 6, kSide - 7, kSide + 100, kSide + 100};
  const int32_t image = 0;
  for (int64_t c = 0; c < kChannels; ++c) {
    const int64_t cell = (kSide - 1 - c) * kSide + kSide - 2 - c;
    map[Place(p.maps, cell, c)] = static_cast<float>(c + 1);
  }
  float pooled[kChannels] = {};
  int32_t argmax[kChannels] = {};
  const MaxPoolCall call{
      RoisOf(p, &image), {{1, 1}}, {map.data()}, box, pooled, argmax};
  const cpu::MaxPoolPlan plan = PlanPool(call, isa, 1);
  RunUnit(plan, plan.Planned(call), plan.units.at(0), PoolKernel(isa));

  float gathered[kChannels] = {};
  const ArgmaxGatherCall gather{
      RoisOf(p, &image), {map.data()}, argmax, gathered};
  const cpu::ArgmaxGatherPlan of_gather = cpu::PlanArgmaxGather(gather, 1);
  RunUnit(of_gather, of_gather.Planned(gather), of_gather.units.at(0),
          GatherKernel(isa));
  for (int64_t c = 0; c < kChannels; ++c) {
    const auto value = static_cast<float>(c + 1);
    Demand(pooled[c] == value && gathered[c] == value, "a large map", isa,
           layout);
    Demand(argmax[c] == (kSide - 1 - c) * kSide + kSide - 2 - c,
           "a large map's cell", isa, layout);
  }
}

// The last of many maps: 4.3 * 10^9 numbers in all.
void PoolAndScatterAmongManyMaps(cpu::Isa isa, Layout layout) {
  const Sizes p(layout, Element::kFloat32, 16, 256, 64, 64, 256, 1, 1, 1);
  const int64_t maps = p.maps.count(), channels = p.maps.channels;
  const Sparse<float> map(p.map_numbers());
  std::vector<float> boxes, cotangent(p.pooled_numbers(), 1);
  std::vector<int32_t> image(p.rois.count(), -1);
  image.back() = static_cast<int32_t>(p.maps.images - 1);
  for (int64_t group = 0; group < p.maps.groups; ++group) {
    boxes.insert(boxes.end(), {60, 60, 63, 63});
  }
  const int64_t first = (maps - 1) * p.maps.map_size(), cell = p.cells() - 1;
  for (int64_t c = 0; c < channels; ++c) {
    map[first + Place(p.maps, cell, c)] = static_cast<float>(c + 1);
  }
  std::vector<float> pooled(p.pooled_numbers(), -1);
  std::vector<int32_t> argmax(p.pooled_numbers(), -7);
  const MaxPoolCall call{
      RoisOf(p, image.data()), {{1, 1}},     {map.data()}, boxes.data(),
      pooled.data(),           argmax.data()};
  const cpu::MaxPoolPlan plan = PlanPool(call, isa, 1);
  for (const cpu::MaxPoolUnit& unit : plan.units) {
    RunUnit(plan, plan.Planned(call), unit, PoolKernel(isa));
  }
  const int64_t last_roi = (p.rois.count() - 1) * channels;
  for (int64_t c = 0; c < channels; ++c) {
    Demand(pooled[last_roi + c] == static_cast<float>(c + 1) &&
               argmax[last_roi + c] == cell && pooled[c] == 0 &&
               argmax[c] == -1,
           "many maps", isa, layout);
  }

  const ArgmaxScatterCall scatter{
      RoisOf(p, image.data()), cotangent.data(), argmax.data(), {map.data()}};
  const cpu::ArgmaxScatterPlan of_scatter = cpu::PlanArgmaxScatter(scatter, 1);
  for (const cpu::ArgmaxScatterUnit& unit : of_scatter.units) {
    if (unit.map != maps - 1) continue;
    RunUnit(of_scatter, of_scatter.Planned(scatter), unit, ScatterKernel(isa));
  }
  for (int64_t c = 0; c < channels; ++c) {
    const int64_t from = first + Place(p.maps, 0, c);
    const int64_t to = first + Place(p.maps, cell, c);
    Demand(map[to] == 1 && map[from] == 0, "many gradients", isa, layout);
  }
}

// The last of many RoIs: 4.3 * 10^9 results.
void PoolManyRois(cpu::Isa isa, Layout layout) {
  const Sizes p(layout, Element::kFloat32, 1, 1, 4, 4, 64, int64_t{1} << 18, 16,
                16);
  const int64_t rois = p.rois.count();
  const Sparse<float> pooled(p.pooled_numbers());
  const Sparse<int32_t> argmax(p.pooled_numbers());
  std::vector<float> map(p.map_numbers(), 1), boxes(4 * rois, 0);
  std::vector<int32_t> image(rois, -1);
  image.back() = 0;
  boxes[4 * rois - 2] = boxes[4 * rois - 1] = 3;
  const MaxPoolCall call{
      RoisOf(p, image.data()), {{1, 1}},     {map.data()}, boxes.data(),
      pooled.data(),           argmax.data()};
  const cpu::MaxPoolPlan plan = PlanPool(call, isa, 1 << 12);
  for (cpu::MaxPoolUnit unit : plan.units) {
    for (int64_t i = unit.roi_begin; i < unit.roi_end; ++i) {
      if (plan.order[i] != rois - 1) continue;
      if (unit.source != cpu::CellSource::kSharedTable) {
        unit.roi_begin = i;
        unit.roi_end = i + 1;
      }
      RunUnit(plan, plan.Planned(call), unit, PoolKernel(isa));
      break;
    }
  }
  const int64_t begin = (rois - 1) * p.bins.size();
  for (int64_t i = begin; i < begin + p.bins.size(); ++i) {
    Demand(pooled[i] == 1 && argmax[i] >= 0 && argmax[i] < p.cells(),
           "many RoIs", isa, layout);
    pooled[i] = 0;
  }

  const ArgmaxGatherCall gather{
      RoisOf(p, image.data()), {map.data()}, argmax.data(), pooled.data()};
  const cpu::ArgmaxGatherPlan of_gather =
      cpu::PlanArgmaxGather(gather, 1 << 12);
  for (const cpu::ArgmaxGatherUnit& unit : of_gather.units) {
    for (int64_t i = unit.roi_begin; i < unit.roi_end; ++i) {
      if (of_gather.rois.order[i] != rois - 1) continue;
      RunUnit(of_gather, of_gather.Planned(gather),
              cpu::ArgmaxGatherUnit{i, i + 1}, GatherKernel(isa));
    }
  }
  for (int64_t i = begin; i < begin + p.bins.size(); ++i) {
    Demand(pooled[i] == 1, "many gathered", isa, layout);
  }
}

// --- The ops that apply bands

BandsCall BandsOf(const Sizes& p, const int32_t* image_index, BandKind kind,
                  const float* boxes) {
  BandsCall call{};
  static_cast<RoiCall&>(call) = RoisOf(p, image_index);
  call.kind = kind;
  call.rows = call.columns = {1, false};
  call.scales[0] = {1, 1};
  call.boxes = boxes;
  return call;
}

// Means of the last four cells of a map of 2.7 * 10^9 numbers, the transpose,
// and how a sample there moves.
void ApplyBandsToLargeMap(cpu::Isa isa, Layout layout) {
  constexpr int64_t kSide = 30000, kChannels = 3;
  const Sizes p(layout, Element::kFloat32, 1, 1, kSide, kSide, kChannels, 1, 1,
                1);
  const auto& kernels = cpu::BandsKernelsFor(isa);
  const Sparse<float> map(p.map_numbers()), gradient(p.map_numbers());
  const int32_t image = 0;
  const float box[] = {kSide - 2, kSide - 2, kSide - 1, kSide - 1};
  const int64_t last = kSide * kSide - 1;
  for (int64_t c = 0; c < kChannels; ++c) {
    map[Place(p.maps, last - 1, c)] = static_cast<float>(8 * (c + 1));
  }
  float pooled[kChannels] = {}, cotangent[kChannels] = {4, 8, 12};
  const BandsApplyCall apply{
      BandsOf(p, &image, BandKind::kMean, box), {map.data()}, pooled};
  const auto of_apply = cpu::PlanBandsApply(apply, kernels, 1);
  RunUnit(of_apply, of_apply.Planned(apply), of_apply.units.at(0),
          kernels.apply[kElement]);
  const BandsTransposeCall transpose{
      BandsOf(p, &image, BandKind::kMean, box), cotangent, {gradient.data()}};
  const auto of_transpose = cpu::PlanBandsTranspose(transpose, kernels, 1);
  for (const cpu::BandsTransposeUnit& unit : of_transpose.units) {
    if (unit.row_end < kSide - 1) continue;
    RunUnit(of_transpose, of_transpose.Planned(transpose), unit,
            kernels.transpose[kElement]);
  }
  for (int64_t c = 0; c < kChannels; ++c) {
    const auto value = static_cast<float>(c + 1);
    Demand(pooled[c] == 2 * value, "bands of a large map", isa, layout);
    for (const int64_t cell :
         {last, last - 1, last - kSide, last - kSide - 1}) {
      Demand(gradient[Place(p.maps, cell, c)] == value,
             "gradient of a large map", isa, layout);
    }
  }
  // One sample at the last cell but one, both ways.
  const float around[] = {kSide - 3, kSide - 3, kSide - 1, kSide - 1};
  const float ones[kChannels] = {1, 1, 1};
  float slopes[4] = {};
  const BandsBoxGradientCall of_box{
      BandsOf(p, &image, BandKind::kAlign, around), {map.data()}, ones, slopes};
  const auto of_slopes = cpu::PlanBandsBoxGradient(of_box, kernels, 1);
  RunUnit(of_slopes, of_slopes.Planned(of_box), of_slopes.units.at(0),
          kernels.box_gradient[kElement]);
  Demand(slopes[0] == 0 && slopes[1] == 24 && slopes[2] == 0 && slopes[3] == 24,
         "boxes on a large map", isa, layout);
}

// The last of many maps: 4.3 * 10^9 numbers in all.
void ApplyBandsAmongManyMaps(cpu::Isa isa, Layout layout) {
  const Sizes p(layout, Element::kFloat32, 16, 256, 64, 64, 256, 1, 1, 1);
  const auto& kernels = cpu::BandsKernelsFor(isa);
  const int64_t maps = p.maps.count(), channels = p.maps.channels;
  const Sparse<float> map(p.map_numbers());
  std::vector<float> boxes, pooled(p.pooled_numbers(), -1);
  const std::vector<float> cotangent(p.pooled_numbers(), 4);
  std::vector<int32_t> image(p.rois.count(), -1);
  image.back() = static_cast<int32_t>(p.maps.images - 1);
  for (int64_t group = 0; group < p.maps.groups; ++group) {
    boxes.insert(boxes.end(), {62, 62, 63, 63});
  }
  const int64_t first = (maps - 1) * p.maps.map_size(), cell = p.cells() - 1;
  for (int64_t c = 0; c < channels; ++c) {
    map[first + Place(p.maps, cell, c)] = static_cast<float>(4 * (c + 1));
  }
  const BandsCall bands =
      BandsOf(p, image.data(), BandKind::kMean, boxes.data());
  const BandsApplyCall apply{bands, {map.data()}, pooled.data()};
  const auto of_apply = cpu::PlanBandsApply(apply, kernels, 1);
  for (const cpu::BandsUnit& unit : of_apply.units) {
    RunUnit(of_apply, of_apply.Planned(apply), unit, kernels.apply[kElement]);
  }
  const BandsTransposeCall transpose{bands, cotangent.data(), {map.data()}};
  const auto of_transpose = cpu::PlanBandsTranspose(transpose, kernels, 1);
  for (const cpu::BandsTransposeUnit& unit : of_transpose.units) {
    if (unit.map != maps - 1) continue;
    RunUnit(of_transpose, of_transpose.Planned(transpose), unit,
            kernels.transpose[kElement]);
  }
  const int64_t last_roi = (p.rois.count() - 1) * channels;
  for (int64_t c = 0; c < channels; ++c) {
    Demand(pooled[last_roi + c] == static_cast<float>(c + 1) && pooled[c] == 0,
           "bands of many maps", isa, layout);
    Demand(map[first + Place(p.maps, cell, c)] == 1 &&
               map[first + Place(p.maps, 0, c)] == 0,
           "bands' gradients of many maps", isa, layout);
  }
}

// The last of many RoIs: 4.3 * 10^9 results.
void ApplyBandsOfManyRois(cpu::Isa isa, Layout layout) {
  const Sizes p(layout, Element::kFloat32, 1, 1, 4, 4, 64, int64_t{1} << 18, 16,
                16);
  const auto& kernels = cpu::BandsKernelsFor(isa);
  const int64_t rois = p.rois.count();
  const Sparse<float> pooled(p.pooled_numbers());
  const std::vector<float> map(p.map_numbers(), 1);
  std::vector<float> boxes(4 * rois, 0);
  std::vector<int32_t> image(rois, -1);
  image.back() = 0;
  boxes[4 * rois - 2] = boxes[4 * rois - 1] = 3;
  const BandsApplyCall apply{
      BandsOf(p, image.data(), BandKind::kMean, boxes.data()),
      {map.data()},
      pooled.data()};
  const auto plan = cpu::PlanBandsApply(apply, kernels, 1 << 12);
  for (cpu::BandsUnit unit : plan.units) {
    for (int64_t i = unit.roi_begin; i < unit.roi_end; ++i) {
      if (plan.rois.order[i] != rois - 1) continue;
      unit.roi_begin = i;
      unit.roi_end = i + 1;
      RunUnit(plan, plan.Planned(apply), unit, kernels.apply[kElement]);
      break;
    }
  }
  const int64_t begin = (rois - 1) * p.bins.size();
  for (int64_t i = begin; i < begin + p.bins.size(); ++i) {
    Demand(pooled[i] == 1, "bands of many RoIs", isa, layout);
  }
}

}  // namespace

int RunLimits() {
  for (const cpu::Isa isa : cpu::SupportedIsas()) {
    for (const Layout layout : {Layout::kNHWC, Layout::kNCHW}) {
      PoolFromLargeMap(isa, layout);
      PoolAndScatterAmongManyMaps(isa, layout);
      PoolManyRois(isa, layout);
      ApplyBandsToLargeMap(isa, layout);
      ApplyBandsAmongManyMaps(isa, layout);
      ApplyBandsOfManyRois(isa, layout);
    }
  }
  std::printf("limits: right past 2^31 elements\n");
  return 0;
}

}  // namespace jax_roipool::native
