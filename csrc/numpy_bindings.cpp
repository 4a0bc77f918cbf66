#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "boxes/engine.h"
#include "boxes/histogram.h"
#include "boxes/normalize.h"
#include "boxes/packed_rule.h"
#include "boxes/parallel.h"
#include "boxes/resize.h"
#include "boxes/simd.h"

namespace py = pybind11;
using namespace wsolfast::boxes;
using py::literals::operator""_a;

namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

template <typename Enum>
Enum choice(const char* what, const std::string& name, std::initializer_list<const char*> names) {
  int index = 0;
  std::string listed;
  for (const char* known : names) {
    if (name == known) return static_cast<Enum>(index);
    listed += std::string(index++ ? ", " : "") + known;
  }
  throw std::invalid_argument(std::string(what) + ": expected one of " + listed + ", got '" + name + "'");
}

Algorithm algorithm_named(const std::string& name) {
  return choice<Algorithm>("algorithm", name, {"auto", "sweep", "runs", "ridges"});
}

// Reads a rule's fields from keyword arguments; those that are not given keep their defaults.
class Keywords {
 public:
  explicit Keywords(const py::dict& given) : given_(given) {}

  template <typename Number>
  void operator()(const char* name, Number& field) {
    if (const py::object value = take(name)) field = value.cast<Number>();
  }
  template <typename Choice>
  void operator()(const char* name, Choice& field, std::initializer_list<const char*> words) {
    if (const py::object value = take(name)) field = choice<Choice>(name, value.cast<std::string>(), words);
  }
  void check_all_are_known() const {
    if (py::len(given_) == taken_) return;
    throw py::type_error("Rule: expected fields of wsolfast.ops.BoxRule, got " + py::repr(given_).cast<std::string>());
  }

 private:
  py::object take(const char* name) {
    if (!given_.contains(name)) return {};
    ++taken_;
    return given_[name];
  }

  const py::dict& given_;
  size_t taken_ = 0;
};

Rule make_rule(const py::dict& given) {
  Rule rule;
  Keywords keywords(given);
  visit_switches(rule, keywords);
  keywords.check_all_are_known();
  return rule;
}

std::string shape_of(const py::array& array) {
  std::string shape = "[";
  for (py::ssize_t i = 0; i < array.ndim(); ++i) shape += (i ? ", " : "") + std::to_string(array.shape(i));
  return shape + "]";
}

void expect(bool condition, const std::string& wanted, const py::array& got) {
  if (!condition) throw py::value_error("expected " + wanted + ", got shape " + shape_of(got));
}

std::span<const double> as_span(const Array<double>& array) {
  return {array.data(), static_cast<size_t>(array.size())};
}

// Maps [N, H, W] of float64 or uint8; everything else is converted to float64.
struct Maps {
  Array<double> values;
  Array<uint8_t> bytes;
  bool is_bytes;
  int64_t count;
  int height, width;

  explicit Maps(const py::array& maps) {
    expect(maps.ndim() == 3 && maps.shape(1) > 0 && maps.shape(2) > 0, "maps [N, H, W]", maps);
    is_bytes = py::isinstance<py::array_t<uint8_t>>(maps);
    if (is_bytes) {
      bytes = maps;
    } else {
      values = maps;
    }
    count = maps.shape(0);
    height = static_cast<int>(maps.shape(1));
    width = static_cast<int>(maps.shape(2));
  }

  // Calls function(n, pixels of map n) on `threads` threads, without the GIL.
  template <typename Function>
  void for_each(int threads, Function&& function) const {
    const int64_t size = static_cast<int64_t>(height) * width;
    const double* value = is_bytes ? nullptr : values.data();
    const uint8_t* byte = is_bytes ? bytes.data() : nullptr;
    py::gil_scoped_release release;
    for_each_image(count, threads, [&](int64_t n) {
      if (is_bytes) {
        function(n, byte + n * size);
      } else {
        function(n, value + n * size);
      }
    });
  }
};

Array<int64_t> choose_boxes(const py::array& maps, const Array<double>& thresholds, const Rule& rule,
                            const std::string& algorithm, int threads) {
  const Maps input(maps);
  const Algorithm chosen = algorithm_named(algorithm);
  if (rule.selection == Selection::kAll) throw py::value_error("selection 'all' needs list_boxes");
  const std::span<const double> cuts = as_span(thresholds);
  Array<int64_t> boxes({static_cast<py::ssize_t>(input.count), static_cast<py::ssize_t>(cuts.size()), py::ssize_t{4}});
  auto* out = reinterpret_cast<Box*>(boxes.mutable_data());
  input.for_each(threads, [&](int64_t n, const auto* map) {
    thread_engine(chosen).choose_boxes(map, input.height, input.width, cuts, rule, out + n * cuts.size());
  });
  return boxes;
}

std::pair<Array<int64_t>, Array<int64_t>> list_boxes(const py::array& maps, const Array<double>& thresholds,
                                                     const Rule& rule, const std::string& algorithm, int threads) {
  const Maps input(maps);
  const Algorithm chosen = algorithm_named(algorithm);
  if (rule.selection != Selection::kAll) throw py::value_error("list_boxes needs selection 'all'");
  const std::span<const double> cuts = as_span(thresholds);
  Array<int64_t> counts({static_cast<py::ssize_t>(input.count), static_cast<py::ssize_t>(cuts.size())});
  int64_t* count = counts.mutable_data();
  std::vector<std::vector<Box>> found(input.count);
  input.for_each(threads, [&](int64_t n, const auto* map) {
    thread_engine(chosen).list_boxes(map, input.height, input.width, cuts, rule, found[n], count + n * cuts.size());
  });
  py::ssize_t total = 0;
  for (const std::vector<Box>& boxes : found) total += static_cast<py::ssize_t>(boxes.size());
  Array<int64_t> flat({total, py::ssize_t{4}});
  auto* out = reinterpret_cast<Box*>(flat.mutable_data());
  for (const std::vector<Box>& boxes : found) out = std::copy(boxes.begin(), boxes.end(), out);
  return {flat, counts};
}

// True boxes of all images, one after the other: image n has rows [offsets[n], offsets[n + 1]).
struct Truths {
  std::span<const double> values;
  const int64_t* offsets;

  Truths(const Array<double>& boxes, const Array<int64_t>& offset_array, int64_t images)
      : values(as_span(boxes)), offsets(offset_array.data()) {
    expect(boxes.ndim() == 2 && boxes.shape(1) == 4, "gt_boxes [G, 4]", boxes);
    expect(offset_array.ndim() == 1 && offset_array.shape(0) == images + 1, "gt_offsets [N + 1]", offset_array);
    bool rising = offsets[0] == 0 && offsets[images] == boxes.shape(0);
    for (int64_t n = 0; n < images; ++n) rising &= offsets[n] <= offsets[n + 1];
    if (!rising) throw py::value_error("gt_offsets must rise from 0 to the number of gt_boxes");
  }
  std::span<const double> of(int64_t n) const {
    return values.subspan(4 * offsets[n], 4 * (offsets[n + 1] - offsets[n]));
  }
};

Array<double> best_overlaps(const py::array& maps, const Array<double>& thresholds, const Array<double>& gt_boxes,
                            const Array<int64_t>& gt_offsets, const Rule& rule, const std::string& algorithm,
                            int threads) {
  const Maps input(maps);
  const Algorithm chosen = algorithm_named(algorithm);
  const Truths truths(gt_boxes, gt_offsets, input.count);
  const std::span<const double> cuts = as_span(thresholds);
  Array<double> best({static_cast<py::ssize_t>(input.count), static_cast<py::ssize_t>(cuts.size())});
  double* out = best.mutable_data();
  input.for_each(threads, [&](int64_t n, const auto* map) {
    thread_engine(chosen).best_overlaps(map, input.height, input.width, cuts, rule, truths.of(n),
                                        out + n * cuts.size());
  });
  return best;
}

Array<bool> box_sweep_hits(const py::array& maps, const Array<double>& thresholds, const Array<double>& gt_boxes,
                           const Array<int64_t>& gt_offsets, const Array<double>& iou_thresholds, const Rule& rule,
                           int threads) {
  const Maps input(maps);
  const Truths truths(gt_boxes, gt_offsets, input.count);
  const std::span<const double> cuts = as_span(thresholds), levels = as_span(iou_thresholds);
  Array<bool> hits({static_cast<py::ssize_t>(input.count), static_cast<py::ssize_t>(cuts.size()),
                    static_cast<py::ssize_t>(levels.size())});
  bool* out = hits.mutable_data();
  input.for_each(threads, [&](int64_t n, const auto* map) {
    thread_engine().hits(map, input.height, input.width, cuts, rule, truths.of(n), levels,
                         out + n * cuts.size() * levels.size());
  });
  return hits;
}

std::pair<Array<int64_t>, Array<int64_t>> compute_bboxes(const Array<double>& map, const Array<double>& thresholds,
                                                         bool multi) {
  expect(map.ndim() == 2 && map.size() > 0, "a score map [H, W]", map);
  const std::span<const double> cuts = as_span(thresholds);
  const auto height = static_cast<int>(map.shape(0)), width = static_cast<int>(map.shape(1));
  Rule rule;
  rule.selection = multi ? Selection::kAll : Selection::kContourArea;
  Array<int64_t> counts(static_cast<py::ssize_t>(cuts.size()));
  int64_t* count = counts.mutable_data();
  std::vector<Box> boxes;
  {
    py::gil_scoped_release release;
    if (multi) {
      thread_engine().list_boxes(map.data(), height, width, cuts, rule, boxes, count);
    } else {
      boxes.resize(cuts.size());
      thread_engine().choose_boxes(map.data(), height, width, cuts, rule, boxes.data());
      std::fill_n(count, cuts.size(), 1);
    }
  }
  Array<int64_t> flat({static_cast<py::ssize_t>(boxes.size()), py::ssize_t{4}});
  std::copy(boxes.begin(), boxes.end(), reinterpret_cast<Box*>(flat.mutable_data()));
  return {flat, counts};
}

Array<double> resize(const Array<double>& map, std::pair<int, int> size, const std::string& interpolation) {
  expect(map.ndim() == 2 && map.size() > 0, "a map [h, w]", map);
  const Interpolation kind = make_rule(py::dict("interpolation"_a = interpolation)).interpolation;
  const auto h = static_cast<int>(map.shape(0)), w = static_cast<int>(map.shape(1));
  const auto [height, width] = size;
  expect(height > 0 && width > 0 && (kind != Interpolation::kNone || (h == height && w == width)),
         "a positive size, and an interpolation to reach it", map);
  Array<double> out({height, width});
  double* target = out.mutable_data();
  py::gil_scoped_release release;
  static thread_local Resizer resizer;
  resizer.resize(map.data(), h, w, kind, target, height, width);
  return out;
}

Array<double> normalize_score_map(const Array<double>& map, const std::string& normalization, double eps) {
  expect(map.ndim() == 2, "a map [h, w]", map);
  const Normalization kind = make_rule(py::dict("normalization"_a = normalization)).normalization;
  Array<double> out({map.shape(0), map.shape(1)});
  double* target = out.mutable_data();
  const int64_t size = map.size();
  py::gil_scoped_release release;
  std::copy_n(map.data(), size, target);
  normalize_map(target, size, kind, eps);
  return out;
}

Array<int64_t> pixel_histogram(const Array<double>& scores, const Array<uint8_t>& mask, const Array<double>& edges) {
  expect(scores.size() == mask.size(), "a mask as large as the scores", mask);
  expect(edges.ndim() == 1 && edges.size() >= 2, "at least two edges", edges);
  const std::span<const double> bounds = as_span(edges);
  if (!std::is_sorted(bounds.begin(), bounds.end())) throw py::value_error("edges must not decrease");
  const auto bins = static_cast<py::ssize_t>(bounds.size()) - 1;
  Array<int64_t> counts({py::ssize_t{2}, bins});
  int64_t* count = counts.mutable_data();
  const int64_t size = scores.size();
  py::gil_scoped_release release;
  std::fill_n(count, 2 * bins, 0);
  PixelHistogram(bounds).add(scores.data(), mask.data(), size, count);
  return counts;
}

}  // namespace

PYBIND11_MODULE(_numpy, module) {
  module.doc() = "The box engine on NumPy arrays: no torch, the GIL released.";
  py::class_<Rule>(module, "Rule",
                   "The fields of wsolfast.ops.BoxRule as keywords, with its defaults; empty_box=None is the image.")
      .def(py::init([](const py::kwargs& fields) { return make_rule(fields); }));

  module.def("compute_bboxes", &compute_bboxes, "score_map"_a, "thresholds"_a, "multi"_a,
             "Boxes of a score map [H, W] in [0, 1] under wsolevaluation's rule: int64 [M, 4] and the count of each "
             "threshold. multi: every contour in OpenCV's order, else the largest.");
  module.def("choose_boxes", &choose_boxes, "maps"_a, "thresholds"_a, "rule"_a, "algorithm"_a = "auto", "threads"_a = 1,
             "One box per map and threshold: int64 [N, T, 4].");
  module.def("list_boxes", &list_boxes, "maps"_a, "thresholds"_a, "rule"_a, "algorithm"_a = "auto", "threads"_a = 1,
             "Every contour of each map and threshold: int64 [M, 4] and counts [N, T].");
  module.def("best_overlaps", &best_overlaps, "maps"_a, "thresholds"_a, "gt_boxes"_a, "gt_offsets"_a, "rule"_a,
             "algorithm"_a = "auto", "threads"_a = 1,
             "Best IoU over boxes and true boxes: float64 [N, T]; -1 without true boxes.");
  module.def("box_sweep_hits", &box_sweep_hits, "maps"_a, "thresholds"_a, "gt_boxes"_a, "gt_offsets"_a,
             "iou_thresholds"_a, "rule"_a, "threads"_a = 1, "Whether the best IoU reaches each level: bool [N, T, I].");
  module.def("resize", &resize, "map"_a, "size"_a, "interpolation"_a = "cubic",
             "A map [h, w] resized to size (H, W) in float64; cubic is bit-equal to OpenCV's INTER_CUBIC.");
  module.def("normalize_score_map", &normalize_score_map, "map"_a, "normalization"_a = "minmax", "eps"_a = 0.0,
             "A map scaled to [0, 1] in float64; zeros where it is constant or not finite.");
  module.def("pixel_histogram", &pixel_histogram, "scores"_a, "mask"_a, "edges"_a,
             "Scores between edges, int64 [2, bins]: mask 0 in row 0, mask 1 in row 1, other pixels left out.");
  module.def("use_simd", &use_simd, "name"_a, "Choose scalar, avx2 or avx512 for the whole process.");
  module.def(
      "build_info",
      [] {
        py::dict info;
        info["compiler"] = __VERSION__;
        info["standard"] = static_cast<long>(__cplusplus);
        info["simd"] = simd_name(active_simd());
        return info;
      },
      "Compiler and language standard of this build, and the instruction set in use.");
}
