// Where coordinates become cells, by exhaustion: every finite float32
// coordinate at every scale of the usual feature maps, and every bin of every
// RoI up to 2^14 cells and 64 bins, against integers.
//
//   c++ -std=c++17 -O3 -ffp-contract=off -Icsrc tests/native/exhaustion.cc

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "core/align_samples.h"
#include "core/caffe_bins.h"

namespace jax_roipool {
namespace {

constexpr int kShifts[] = {0, 2, 3, 4, 5, 6};  // scales 1, 1/4 ... 1/64

// mantissa * 2^exponent, not negative, where float32 has it so.
struct Number {
  uint64_t mantissa;
  int exponent;
};

Number Magnitude(uint32_t bits) {
  const uint32_t power = bits >> 23 & 0xff, fraction = bits & 0x7fffff;
  if (power == 0) return {fraction, -149};
  return {fraction | 0x800000, static_cast<int>(power) - 150};
}

// To nearest, ties to even, of so many bits as float32 has there.
Number Rounded(Number x) {
  int drop = 0;
  while (x.mantissa >> drop >= uint64_t{1} << 24) ++drop;
  if (x.exponent + drop < -149) drop = -149 - x.exponent;
  if (drop <= 0) return x;
  if (drop > 62) return {0, -149};
  const uint64_t kept = x.mantissa >> drop;
  const uint64_t rest = x.mantissa - (kept << drop);
  const uint64_t half = uint64_t{1} << (drop - 1);
  const bool up = rest > half || (rest == half && (kept & 1) != 0);
  return {kept + up, x.exponent + drop};
}

// Half away from zero, clamped to 2^24.
int64_t RoundedCell(Number x, bool negative) {
  int64_t cell;
  if (x.exponent >= 0) {
    cell = x.exponent > 24 ? int64_t{1} << 24
                           : static_cast<int64_t>(x.mantissa << x.exponent);
    if (x.mantissa == 0) cell = 0;
  } else if (x.exponent < -62) {
    cell = 0;
  } else {
    const uint64_t half = uint64_t{1} << (-x.exponent - 1);
    cell = static_cast<int64_t>((x.mantissa + half) >> -x.exponent);
  }
  if (cell > int64_t{1} << 24) cell = int64_t{1} << 24;
  return negative ? -cell : cell;
}

[[noreturn]] void Fail(const char* what, float coordinate, int shift) {
  std::fprintf(stderr, "%s of %a at 2^-%d\n", what,
               static_cast<double>(coordinate), shift);
  std::exit(1);
}

// Exact: float64 has powers down to 2^-1022.
double Value(Number x) {
  const uint64_t bits = static_cast<uint64_t>(x.exponent + 1023) << 52;
  double power;
  std::memcpy(&power, &bits, sizeof(power));
  return static_cast<double>(x.mantissa) * power;
}

void CheckCoordinate(uint32_t bits) {
  float coordinate;
  std::memcpy(&coordinate, &bits, sizeof(bits));
  if ((bits & 0x7f800000) == 0x7f800000) return;  // not finite
  const bool negative = bits >> 31 != 0;
  const Number exact = Magnitude(bits);
  for (const int shift : kShifts) {
    const float scale = 1.0f / static_cast<float>(1 << shift);
    const Number scaled = Rounded({exact.mantissa, exact.exponent - shift});
    if (CellOf(coordinate, scale) != RoundedCell(scaled, negative)) {
      Fail("cell", coordinate, shift);
    }
    for (const bool aligned : {false, true}) {
      // Less a half: exact in float64, or too small to change a rounding.
      const double at =
          (negative ? -Value(scaled) : Value(scaled)) - (aligned ? 0.5 : 0.0);
      const auto wanted = static_cast<float>(at);
      const SampleAxis<float> axis =
          MakeSampleAxis(coordinate, coordinate, scale, 1, 1, aligned);
      if (axis.start != wanted) Fail("start", coordinate, shift);
      constexpr int64_t kExtent = int64_t{1} << 24;
      const double most = kExtent - 1;
      const bool inside = wanted >= -1 && wanted <= kExtent;
      if (inside) {
        const SampleCells<float> cells = CellsOf(wanted, kExtent);
        const double clamped = wanted < 0 ? 0 : wanted > most ? most : wanted;
        const auto cell = static_cast<double>(static_cast<int64_t>(clamped));
        if (static_cast<double>(cells.cell) != cell ||
            static_cast<double>(cells.far) != clamped - cell ||
            cells.flat != (wanted < 0 || wanted >= most)) {
          Fail("sample", coordinate, shift);
        }
      }
      if (!aligned) continue;  // one cell long: its sample lies elsewhere
      int samples = 0;
      const auto visit = [&](int64_t, float y) { samples += y == wanted; };
      SampledBin<float>(axis, 0).ForEachInside(kExtent, visit);
      if (samples != static_cast<int>(inside)) {
        Fail("inside", coordinate, shift);
      }
    }
  }
}

void CheckBins(int64_t bins, int64_t length) {
  const BinAxis axis = MakeBinAxis(0, static_cast<float>(length - 1), 1, bins);
  // length / bins: 24 bits of the quotient, and one bit for what is left.
  int up = 0;
  while ((length << up) / bins < int64_t{1} << 24) ++up;
  const int64_t quotient = (length << up) / bins;
  const bool rest = quotient * bins != length << up;
  const Number size =
      Rounded({static_cast<uint64_t>(2 * quotient + rest), -up - 1});
  const auto bound = [&](int64_t bin, bool ceil) -> int64_t {
    const Number product =
        Rounded({size.mantissa * static_cast<uint64_t>(bin), size.exponent});
    if (product.exponent >= 0) {
      return static_cast<int64_t>(product.mantissa << product.exponent);
    }
    const uint64_t below = (uint64_t{1} << -product.exponent) - 1;
    return static_cast<int64_t>((product.mantissa + (ceil ? below : 0)) >>
                                -product.exponent);
  };
  for (int64_t bin = 0; bin < bins; ++bin) {
    const Range range = BinRange(axis, bin, int64_t{1} << 20);
    if (range.begin != bound(bin, false) || range.end != bound(bin + 1, true)) {
      std::fprintf(stderr, "bin %lld of %lld in %lld cells\n",
                   static_cast<long long>(bin), static_cast<long long>(bins),
                   static_cast<long long>(length));
      std::exit(1);
    }
  }
}

template <typename Check>
void OnAllThreads(int64_t count, const Check& check) {
  std::atomic<int64_t> next{0};
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < std::thread::hardware_concurrency(); ++i) {
    threads.emplace_back([&] {
      for (int64_t at; (at = next++) < count;) check(at);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace jax_roipool

// `exhaustion STEP` looks at every STEPth coordinate; all where it is not said.
int main(int count, char** arguments) {
  using namespace jax_roipool;
  const uint64_t step =
      count > 1 ? std::strtoull(arguments[1], nullptr, 10) : 1;
  OnAllThreads(1 << 12, [step](int64_t part) {
    const uint64_t begin = static_cast<uint64_t>(part) << 20;
    uint64_t bits = (begin + step - 1) / step * step;
    for (; bits < begin + (1 << 20); bits += step) {
      CheckCoordinate(static_cast<uint32_t>(bits));
    }
  });
  OnAllThreads(64, [](int64_t bins) {
    for (int64_t length = 1; length <= 1 << 14; ++length) {
      CheckBins(bins + 1, length);
    }
  });
  std::printf(
      "exhaustion: every coordinate and every bin as integers have it\n");
  return 0;
}
