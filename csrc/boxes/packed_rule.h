// A rule as it crosses from Python: the numbers that BoxRule.pack() gives.
#pragma once

#include <cmath>
#include <initializer_list>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>

#include "boxes/percentile.h"
#include "boxes/rule.h"

namespace wsolfast::boxes {

// Calls visitor(name, field) for every field of a rule in the order of wsolfast.ops.BoxRule, and
// visitor(name, field, words) where it is the place of a word among `words`, those of wsolfast/reference/_box_rule.py.
template <typename Visitor>
void visit_switches(Rule& rule, Visitor&& visitor) {
  visitor("interpolation", rule.interpolation, {"none", "cubic", "linear", "linear_corners"});
  visitor("normalization", rule.normalization, {"none", "minmax", "minmax_eps", "max", "min"});
  visitor("eps", rule.eps);
  visitor("normalize_first", rule.normalize_first);
  visitor("quantize", rule.quantize);
  visitor("relative", rule.relative);
  visitor("percentile", rule.percentile);
  visitor("comparison", rule.comparison, {">", ">="});
  visitor("mean_cut", rule.mean_cut);
  visitor("connectivity", rule.connectivity);
  visitor("selection", rule.selection, {"contour_area", "box_area", "pixel_area", "union", "all"});
  visitor("box_end", rule.box_end, {"clipped", "exclusive", "inclusive"});
  visitor("empty_box", rule.empty_box);
  visitor("iou_plus_one", rule.iou_plus_one);
  visitor("hit", rule.hit_strict, {">=", ">"});
  visitor("gt", rule.gt_first_only, {"any", "first"});
  if (rule.connectivity != 4 && rule.connectivity != 8) throw std::invalid_argument("connectivity: expected 4 or 8");
  if (!(rule.percentile >= 0 && rule.percentile <= kMaximumPercentile)) {
    throw std::invalid_argument("percentile: expected 0 to 100");
  }
  if (rule.percentile < kMaximumPercentile && !(rule.quantize && rule.relative)) {
    throw std::invalid_argument("percentile: a rule with one below 100 quantises maps and cuts relative to them");
  }
}

class Unpacker {
 public:
  explicit Unpacker(std::span<const double> numbers) : rest_(numbers) {}

  template <typename Number>
  void operator()(const char* name, Number& field) {
    const double number = next(name);
    field = static_cast<Number>(number);
    if (static_cast<double>(field) != number) refuse(name, number);
  }
  // A first number below 0 is the whole map.
  void operator()(const char* name, std::optional<Box>& field) {
    Box box;
    for (int64_t& side : box) side = static_cast<int64_t>(next(name));
    field = box[0] < 0 ? std::nullopt : std::optional<Box>(box);
  }
  template <typename Choice>
  void operator()(const char* name, Choice& field, std::initializer_list<const char*> words) {
    const double place = next(name);
    if (!(place >= 0 && place < static_cast<double>(words.size()))) refuse(name, place);
    field = static_cast<Choice>(static_cast<int>(place));
  }
  bool at_end() const { return rest_.empty(); }

 private:
  double next(const char* name) {
    if (rest_.empty()) throw std::invalid_argument(std::string("a packed rule without ") + name);
    const double number = rest_.front();
    if (!std::isfinite(number)) refuse(name, number);
    rest_ = rest_.subspan(1);
    return number;
  }
  [[noreturn]] static void refuse(const char* name, double number) {
    throw std::invalid_argument("a packed rule cannot have " + std::to_string(number) + " for " + name);
  }

  std::span<const double> rest_;
};

// Throws std::invalid_argument unless `numbers` are a rule.
inline Rule unpack_rule(std::span<const double> numbers) {
  Rule rule;
  Unpacker unpacker(numbers);
  visit_switches(rule, unpacker);
  if (!unpacker.at_end()) throw std::invalid_argument("a packed rule with too many numbers");
  return rule;
}

}  // namespace wsolfast::boxes
