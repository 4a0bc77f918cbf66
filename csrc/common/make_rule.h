// The arguments that BoxRule.box_codes() gives, as the box engine takes them.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "boxes/map_rule.h"
#include "boxes/rule.h"
#include "common/check.h"

namespace wsolfast {

// For maps [h, w]. Without a size they stay as they are.
inline boxes::MapRule make_map_rule(const char* op, int64_t h, int64_t w, const std::vector<int64_t>& size,
                                    int64_t interpolation, int64_t normalization, double eps, bool normalize_first) {
  WSOLFAST_CHECK(size.empty() || size.size() == 2, op, "expected size [] or [height, width], got ", size.size(),
                 " numbers");
  const int64_t height = size.empty() ? h : size[0], width = size.empty() ? w : size[1];
  for (int64_t side : {h, w, height, width}) {
    WSOLFAST_CHECK(side > 0 && side <= std::numeric_limits<int32_t>::max(), op, "a side of ", side, " pixels");
  }
  boxes::MapRule rule{{static_cast<int>(h), static_cast<int>(w), static_cast<int>(height), static_cast<int>(width)}};
  if (size.empty()) return rule;
  rule.given = true;
  rule.interpolation = static_cast<boxes::Interpolation>(interpolation);
  rule.normalization = static_cast<boxes::Normalization>(normalization);
  rule.eps = eps;
  rule.normalize_first = normalize_first;
  WSOLFAST_CHECK(rule.interpolation != boxes::Interpolation::kNone || rule.shape.same(), op,
                 "another size needs an interpolation");
  return rule;
}

inline boxes::Rule make_rule(bool quantize, bool relative, int64_t comparison, bool mean_cut, int64_t connectivity,
                             int64_t selection, int64_t box_end, const std::vector<int64_t>& empty_box) {
  boxes::Rule rule;
  rule.quantize = quantize;
  rule.relative = relative;
  rule.comparison = static_cast<boxes::Comparison>(comparison);
  rule.mean_cut = mean_cut;
  rule.connectivity = static_cast<int>(connectivity);
  rule.selection = static_cast<boxes::Selection>(selection);
  rule.box_end = static_cast<boxes::BoxEnd>(box_end);
  rule.empty_box.reset();
  if (!empty_box.empty())
    rule.empty_box = boxes::Box{empty_box.at(0), empty_box.at(1), empty_box.at(2), empty_box.at(3)};
  return rule;
}

}  // namespace wsolfast
