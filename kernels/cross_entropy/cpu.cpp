// Op cross_entropy: loss and gradient of rows in one pass.
#include <algorithm>
#include <vector>

#include "../ops.h"
#include "../step/run.h"
#include "../threads.h"

namespace atras {
namespace {

constexpr std::int64_t kRows = 256;              // of a work item
constexpr std::int64_t kSerialElements = 16384;  // below this, waking threads costs more than it saves

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

}  // namespace

void cross_entropy(Address logits, Address labels, Address losses, Address gradients, bool labels_shared,
                   std::int64_t members, std::int64_t rows, int classes, int threads,
                   const std::string& instructions) {
  const step::Kernels& k = step::best_kernels(instructions.c_str());
  if (members * rows * classes < kSerialElements) threads = 1;
  const std::int64_t parts = (rows + kRows - 1) / kRows;
  std::vector<double> sums(members * parts);
  Pool::instance().run(threads, members * parts, [&](std::int64_t item) {
    const std::int64_t member = item / parts, first = item % parts * kRows;
    const std::int64_t from = (member * rows + first) * classes;
    std::vector<float> scratch(2 * step::round_up(classes, step::kLane));
    sums[item] = k.single.cross_entropy(
        at<const float>(logits) + from, at<const std::int64_t>(labels) + (labels_shared ? 0 : member * rows) + first,
        std::min(kRows, rows - first), classes, 1.0f / float(rows), at<float>(gradients) + from, scratch.data());
  });
  for (std::int64_t member = 0; member < members; ++member) {
    double total = 0.0;
    for (std::int64_t part = 0; part < parts; ++part) total += sums[member * parts + part];
    at<float>(losses)[member] = float(total / double(rows));  // of no rows NaN, as in torch
  }
}

}  // namespace atras
