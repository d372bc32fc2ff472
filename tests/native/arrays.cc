#include "arrays.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "definition.h"

namespace jax_roipool::native {
namespace {

constexpr Array kOperands[] = {
    Array::kMap,   Array::kBoxes, Array::kWideBoxes, Array::kImageIndex,
    Array::kLevel, Array::kCells, Array::kCotangent};

struct Bytes {
  const void* data;
  size_t size;
};

template <typename T>
Bytes BytesOf(const std::vector<T>& values) {
  return {values.data(), values.size() * sizeof(T)};
}

Bytes OperandOf(const Call& call, Array array, int level) {
  const int64_t bytes = ElementBytes(call.sizes.maps.element);
  switch (array) {
    case Array::kMap:
      return {call.map.data() + call.sizes.numbers_before(level) * bytes,
              static_cast<size_t>(call.sizes.level_numbers(level) * bytes)};
    case Array::kBoxes:
      return BytesOf(call.boxes);
    case Array::kWideBoxes:
      return BytesOf(call.wide_boxes);
    case Array::kImageIndex:
      return BytesOf(call.image_index);
    case Array::kLevel:
      return BytesOf(call.level);
    case Array::kCells:
      return BytesOf(call.cells);
    default:
      return BytesOf(call.cotangent);
  }
}

// Of the numbers of a result, but for an argmax.
Element ResultElement(const Call& call, Array array) {
  if (array != Array::kBoxGradient) return call.sizes.maps.element;
  return call.wide_boxes.empty() ? Element::kFloat32 : Element::kFloat64;
}

int64_t ResultNumbers(const Call& call, Array array, int level) {
  return HasMapShape(array)     ? call.sizes.level_numbers(level)
         : HasBoxesShape(array) ? 4 * call.sizes.rois.count()
                                : call.sizes.pooled_numbers();
}

size_t ResultBytes(const Call& call, Array array, int level) {
  return static_cast<size_t>(
      ResultNumbers(call, array, level) *
      (array == Array::kArgmax ? 4 : ElementBytes(ResultElement(call, array))));
}

double Rounded(Element element, double value) {
  double rounded;  // room for every element
  definition::Store(element, value, &rounded, 0);
  return definition::Load(element, &rounded, 0);
}

bool SameCells(const char* what, const int32_t* got,
               const std::vector<int32_t>& wanted) {
  for (size_t i = 0; i < wanted.size(); ++i) {
    if (got[i] == wanted[i]) continue;
    std::fprintf(stderr, "%s: cell %zu is %d and not %d\n", what, i, got[i],
                 wanted[i]);
    return false;
  }
  return true;
}

}  // namespace

bool Same(const char* what, Element element, const void* got,
          const double* wanted, int64_t count, const double* tolerances) {
  for (int64_t i = 0; i < count; ++i) {
    const double value = definition::Load(element, got, i);
    if (value == wanted[i] || (std::isnan(value) && std::isnan(wanted[i]))) {
      continue;
    }
    if (tolerances != nullptr &&
        (tolerances[i] == kAnyNumber ||
         (value >= Rounded(element, wanted[i] - tolerances[i]) &&
          value <= Rounded(element, wanted[i] + tolerances[i])))) {
      continue;
    }
    std::fprintf(stderr, "%s: number %lld is %.17g and not %.17g\n", what,
                 static_cast<long long>(i), value, wanted[i]);
    return false;
  }
  return true;
}

std::vector<Array> OperandsOf(const Call& call, const Op& op) {
  std::vector<Array> operands = op.operands;
  if (op.sampled && !call.wide_boxes.empty()) {
    std::replace(operands.begin(), operands.end(), Array::kBoxes,
                 Array::kWideBoxes);
  }
  if (call.sizes.levels() > 1) operands.push_back(Array::kLevel);
  return operands;
}

void Arrays::PlaceOperand(const Call& call, Array array) {
  for (int i = 0; i < NumBuffers(call, array); ++i) {
    const Bytes bytes = OperandOf(call, array, i);
    at(array, i).Place(bytes.data, bytes.size, call.flush);
  }
}

void Arrays::Place(const Call& call) {
  for (const Array array : kOperands) PlaceOperand(call, array);
}

void Arrays::PlaceOperands(const Call& call, const Op& op) {
  for (const Array array : OperandsOf(call, op)) PlaceOperand(call, array);
}

void Arrays::PlaceResults(const Call& call, const Op& op) {
  for (const Array array : op.results) {
    for (int i = 0; i < NumBuffers(call, array); ++i) {
      at(array, i).Place(ResultBytes(call, array, i), call.flush);
    }
  }
}

bool Arrays::HasResults(const Call& call, const Op& op,
                        const std::vector<Wanted>& wanted) const {
  const Sizes& p = call.sizes;
  for (size_t i = 0; i < op.results.size(); ++i) {
    const Array array = op.results[i];
    for (int level = 0; level < NumBuffers(call, array); ++level) {
      const Guarded& result = at(array, level);
      const int64_t first = HasMapShape(array) ? p.numbers_before(level) : 0;
      const bool same =
          array == Array::kArgmax
              ? SameCells(op.name, result.as<int32_t>(), wanted[i].cells)
              : Same(op.name, ResultElement(call, array), result.data(),
                     wanted[i].numbers.data() + first,
                     ResultNumbers(call, array, level),
                     wanted[i].tolerances.empty()
                         ? nullptr
                         : wanted[i].tolerances.data() + first);
      if (!same || !result.AroundIsWhole()) return false;
    }
  }
  return true;
}

bool Arrays::HasBitsOf(const Call& call, const Op& op, int level,
                       const Arrays& others) const {
  for (const Array array : op.results) {
    if (HasMapShape(array)) {
      if (!others.at(array).Holds(data(array, level))) return false;
      continue;
    }
    const int64_t rois = call.sizes.rois.count();
    const size_t bytes =
        ResultBytes(call, array, 0) / std::max<int64_t>(rois, 1);
    for (int64_t k = 0; k < rois; ++k) {
      if (call.level[k] == level &&
          std::memcmp(as<char>(array) + k * bytes,
                      others.as<char>(array) + k * bytes, bytes) != 0) {
        return false;
      }
    }
  }
  return true;
}

bool Arrays::OperandsAreWhole(const Call& call) const {
  for (const Array array : kOperands) {
    for (int i = 0; i < NumBuffers(call, array); ++i) {
      if (!at(array, i).Holds(OperandOf(call, array, i).data)) return false;
    }
  }
  return true;
}

}  // namespace jax_roipool::native
