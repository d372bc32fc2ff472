#include "arrays.h"

#include <cmath>
#include <cstdio>

#include "definition.h"

namespace jax_roipool::native {
namespace {

constexpr Array kOperands[] = {Array::kMap, Array::kBoxes, Array::kImageIndex,
                               Array::kCells, Array::kCotangent};

struct Bytes {
  const void* data;
  size_t size;
};

template <typename T>
Bytes BytesOf(const std::vector<T>& values) {
  return {values.data(), values.size() * sizeof(T)};
}

Bytes OperandOf(const Call& call, Array array) {
  switch (array) {
    case Array::kMap:
      return BytesOf(call.map);
    case Array::kBoxes:
      return BytesOf(call.boxes);
    case Array::kImageIndex:
      return BytesOf(call.image_index);
    case Array::kCells:
      return BytesOf(call.cells);
    default:
      return BytesOf(call.cotangent);
  }
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
          const std::vector<double>& wanted) {
  for (size_t i = 0; i < wanted.size(); ++i) {
    const double value =
        definition::Load(element, got, static_cast<int64_t>(i));
    if (value == wanted[i] || (std::isnan(value) && std::isnan(wanted[i]))) {
      continue;
    }
    std::fprintf(stderr, "%s: number %zu is %.17g and not %.17g\n", what, i,
                 value, wanted[i]);
    return false;
  }
  return true;
}

void Arrays::Place(const Call& call) {
  for (const Array array : kOperands) {
    const Bytes bytes = OperandOf(call, array);
    at(array).Place(bytes.data, bytes.size, call.flush);
  }
}

void Arrays::PlaceOperands(const Call& call, const Op& op) {
  for (const Array array : op.operands) {
    const Bytes bytes = OperandOf(call, array);
    at(array).Place(bytes.data, bytes.size, call.flush);
  }
}

void Arrays::PlaceResults(const Call& call, const Op& op) {
  const int64_t element_bytes = ElementBytes(call.sizes.maps.element);
  for (const Array array : op.results) {
    const int64_t numbers = HasMapShape(array) ? call.sizes.map_numbers()
                                               : call.sizes.pooled_numbers();
    at(array).Place(
        static_cast<size_t>(numbers *
                            (array == Array::kArgmax ? 4 : element_bytes)),
        call.flush);
  }
}

bool Arrays::HasResults(const Call& call, const Op& op,
                        const std::vector<Wanted>& wanted) const {
  for (size_t i = 0; i < op.results.size(); ++i) {
    const Guarded& result = at(op.results[i]);
    const bool same =
        op.results[i] == Array::kArgmax
            ? SameCells(op.name, result.as<int32_t>(), wanted[i].cells)
            : Same(op.name, call.sizes.maps.element, result.data(),
                   wanted[i].numbers);
    if (!same || !result.AroundIsWhole()) return false;
  }
  return true;
}

bool Arrays::OperandsAreWhole(const Call& call) const {
  for (const Array array : kOperands) {
    if (!at(array).Holds(OperandOf(call, array).data)) return false;
  }
  return true;
}

}  // namespace jax_roipool::native
