#include "cuda/box_pipeline.cuh"
#include "cuda/launch.h"

namespace wsolfast::cuda {
namespace {

// Digitises the maps and hands the pipeline to `function`.
template <typename Pixel, typename Function>
void with_boxes(const Launcher& launch, int32_t device, const Allocate& allocate, const BoxMaps<Pixel>& maps,
                const Function& function) {
  const DeviceLimits limits{attribute_of(device, cudaDevAttrMultiProcessorCount),
                            attribute_of(device, cudaDevAttrMaxSharedMemoryPerBlockOptin)};
  BoxPipeline pipeline(launch, allocate, limits, maps.images, maps.map_rule, maps.threshold_count, maps.rule,
                       std::is_same_v<Pixel, uint8_t>);
  pipeline.digitize(maps.maps, maps.thresholds);
  function(pipeline);
}

}  // namespace

template <typename Pixel>
void choose_boxes(const Target& target, const Allocate& allocate, const BoxMaps<Pixel>& maps, Box* boxes) {
  const Launcher launch(target);
  with_boxes(launch, target.device, allocate, maps, [&](auto& pipeline) { pipeline.choose_boxes(boxes); });
}

template <typename Pixel>
void find_hits(const Target& target, const Allocate& allocate, const BoxMaps<Pixel>& maps, const Truths& truths,
               bool* hits) {
  const Launcher launch(target);
  with_boxes(launch, target.device, allocate, maps, [&](auto& pipeline) {
    pipeline.find_hits(truths.boxes, truths.begin, truths.count, truths.levels, truths.level_count, hits);
  });
}

template <typename Pixel>
void list_boxes(const Target& target, const Allocate& allocate, const BoxMaps<Pixel>& maps, int64_t* offsets,
                const std::function<Box*(int64_t)>& room_for) {
  const Launcher launch(target);
  with_boxes(launch, target.device, allocate, maps, [&](auto& pipeline) {
    const int64_t* contours_on_device = pipeline.count_contours(offsets);
    int64_t contours = 0, total = 0;
    cudaMemcpyAsync(&contours, contours_on_device, sizeof(int64_t), cudaMemcpyDeviceToHost, launch.stream());
    cudaMemcpyAsync(&total, offsets + maps.images * maps.threshold_count, sizeof(int64_t), cudaMemcpyDeviceToHost,
                    launch.stream());
    const cudaError_t error = cudaStreamSynchronize(launch.stream());
    WSOLFAST_CHECK(error == cudaSuccess, target.op, cudaGetErrorString(error));
    pipeline.list_contours(contours, offsets, room_for(total));
  });
}

#define WSOLFAST_BOXES_OF(Pixel)                                                                        \
  template void choose_boxes(const Target&, const Allocate&, const BoxMaps<Pixel>&, Box*);              \
  template void find_hits(const Target&, const Allocate&, const BoxMaps<Pixel>&, const Truths&, bool*); \
  template void list_boxes(const Target&, const Allocate&, const BoxMaps<Pixel>&, int64_t*,             \
                           const std::function<Box*(int64_t)>&);
WSOLFAST_BOXES_OF(uint8_t)
WSOLFAST_BOXES_OF(float)
WSOLFAST_BOXES_OF(double)

}  // namespace wsolfast::cuda
