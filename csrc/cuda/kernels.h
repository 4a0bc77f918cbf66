// The functions by which the ops' bindings start the kernels of the .cu files on a device's current stream. Tensors
// stay with the bindings: torch's headers would be compiled once for every architecture.
#pragma once

#include <cstdint>
#include <functional>

#include "boxes/map_rule.h"
#include "boxes/rule.h"
#include "common/gaussian_prior.h"

namespace wsolfast::cuda {

// The device that kernels run on, and the op that errors name.
struct Target {
  const char* op;
  int32_t device;
};

// Gives device memory, aligned to 16 bytes, that lives until the op returns.
using Allocate = std::function<void*(int64_t bytes)>;

// Maps of `size` pixels. T: float, double.
template <typename T>
void min_max_normalize(const Target& target, const T* maps, int64_t count, int64_t size, T eps, T* out);

// `sources` [N, h, w] is scratch where maps are resized. Pixel here and below: uint8_t, float, double.
template <typename Pixel>
void normalize_score_map(const Target& target, const Pixel* maps, int64_t count, const boxes::MapRule& rule,
                         double* sources, double* out);

// Adds to counts [2, bins], which starts at zero; edges [bins + 1].
template <typename Pixel>
void pixel_histogram(const Target& target, const Pixel* scores, const uint8_t* masks, int64_t pixels,
                     const double* edges, int64_t bins, int64_t* counts);

// One Gaussian per map. `axis_sums` [h + w, 3] and `scaled` [N, h, w] are scratch. T: float, double.
template <typename T>
void label_by_maps(const Target& target, const T* cams, int64_t count, const boxes::ResizeShape& shape,
                   const gaussian_prior::Rule& rule, double* axis_sums, double* scaled, uint8_t* labels);

// One Gaussian per contour. `scaled` [N, h, w] is scratch, `overflows` one zero. T: float, double.
template <typename T>
void label_by_contours(const Target& target, const Allocate& allocate, const T* cams, int64_t count,
                       const boxes::ResizeShape& shape, const gaussian_prior::Rule& rule, int32_t* overflows,
                       double* scaled, uint8_t* labels);

// Maps [N, h, w] and how boxes are cut from them; neither maps nor thresholds [T] are empty.
template <typename Pixel>
struct BoxMaps {
  const Pixel* maps;
  int64_t images;
  const double* thresholds;
  int64_t threshold_count;
  boxes::MapRule map_rule;
  boxes::Rule rule;
};

// Boxes [G, 4], those of image n from begin[n] to begin[n + 1], and the overlaps [I] that they are hit with.
struct Truths {
  const double* boxes;
  const int64_t* begin;
  int64_t count;
  const double* levels;
  int64_t level_count;
};

// [N, T]
template <typename Pixel>
void choose_boxes(const Target& target, const Allocate& allocate, const BoxMaps<Pixel>& maps, boxes::Box* boxes);

// [N, T, I]
template <typename Pixel>
void find_hits(const Target& target, const Allocate& allocate, const BoxMaps<Pixel>& maps, const Truths& truths,
               bool* hits);

// Fills offsets [N * T + 1], waits for the last of them, and writes as many boxes to where `room_for` says.
template <typename Pixel>
void list_boxes(const Target& target, const Allocate& allocate, const BoxMaps<Pixel>& maps, int64_t* offsets,
                const std::function<boxes::Box*(int64_t boxes)>& room_for);

}  // namespace wsolfast::cuda
