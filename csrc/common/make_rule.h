// The arguments that BoxRule.box_codes() gives, as the box engine takes them.
#pragma once

#include <cstdint>
#include <vector>

#include "boxes/rule.h"

namespace wsolfast {

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
