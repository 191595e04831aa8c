// SPDX-License-Identifier: Apache-2.0
#include <unordered_set>

#include "engine/graph_reader.hpp"

namespace lightwam::engine {
namespace {

constexpr std::int64_t kMaxSize = std::int64_t{1} << 24;
constexpr std::size_t kMaxCameras = 64;
const std::string kWhere = "policy";
constexpr std::string_view kTask = "{task}";

std::size_t find_tensor(const JsonValue& object, const std::string& where, const std::string& key,
                        const TensorIndex& tensors, const Refusal& refuse) {
    const std::string& name = read_string(object, where, key, refuse);
    const auto found = tensors.find(name);
    if (found == tensors.end()) refuse(where + ": '" + key + "' names the tensor '" + name + "', which is not there");
    return found->second;
}

bool read_boolean(const JsonValue& object, const std::string& where, const std::string& key, const Refusal& refuse) {
    const JsonValue& value = read_member(object, where, key, refuse);
    if (value.boolean() == nullptr) refuse(where + ": '" + key + "' is " + value.type_name() + "; expected a boolean");
    return *value.boolean();
}

CameraInfo read_camera(const JsonValue& item, const std::string& where, const PolicyDescription& policy,
                       const Refusal& refuse) {
    if (item.object() == nullptr) refuse(where + " is " + item.type_name() + "; expected an object");
    CameraInfo camera;
    camera.name = read_string(item, where, "name", refuse);
    if (camera.name.empty()) refuse(where + ": 'name' is empty");
    camera.rotate_180 = read_boolean(item, where, "rotate_180", refuse);
    const std::vector<std::int64_t> rect = read_integers(item.find("rect"), where, "rect", refuse);
    if (rect.size() != 4) refuse(where + ": 'rect' must be [top, left, height, width]");
    for (const std::int64_t number : rect)
        if (number < 0 || number > kMaxSize) refuse(where + ": 'rect' holds " + std::to_string(number));
    camera.top = rect[0];
    camera.left = rect[1];
    camera.height = rect[2];
    camera.width = rect[3];
    if (camera.height < 1 || camera.width < 1 || camera.top + camera.height > policy.canvas_height ||
        camera.left + camera.width > policy.canvas_width)
        refuse(where + ": rectangle " + shape_text(rect) + " is empty or outside the canvas " +
               shape_text({policy.canvas_height, policy.canvas_width}));
    return camera;
}

bool overlap(const CameraInfo& a, const CameraInfo& b) {
    return a.top < b.top + b.height && b.top < a.top + a.height && a.left < b.left + b.width &&
           b.left < a.left + a.width;
}

void read_cameras(const JsonValue& json, PolicyDescription& policy, const Refusal& refuse) {
    const JsonValue::Array& items = read_list(json, kWhere, "cameras", refuse);
    if (items.size() > kMaxCameras) refuse("policy: more than " + std::to_string(kMaxCameras) + " cameras");
    std::int64_t area = 0;
    for (const JsonValue& item : items) {
        const std::string where = "policy: camera " + std::to_string(policy.cameras.size());
        CameraInfo camera = read_camera(item, where, policy, refuse);
        for (const CameraInfo& other : policy.cameras) {
            if (other.name == camera.name) refuse(where + ": the name '" + camera.name + "' is there twice");
            if (overlap(other, camera)) refuse(where + " '" + camera.name + "' overlaps camera '" + other.name + "'");
        }
        area += camera.height * camera.width;
        policy.cameras.push_back(std::move(camera));
    }
    if (area != policy.canvas_height * policy.canvas_width)
        refuse("policy: the cameras cover " + std::to_string(area) + " pixels of the canvas; expected all " +
               std::to_string(policy.canvas_height * policy.canvas_width));
}

void read_start(const JsonValue& json, PolicyDescription& policy, const Refusal& refuse) {
    const std::string& start = read_string(json, kWhere, "starts_at", refuse);
    if (start != "images" && start != "latents")
        refuse("policy: 'starts_at' is '" + start + "'; expected images or latents");
    policy.starts_at_images = start == "images";
    const JsonValue& canvas = read_member(json, kWhere, "canvas", refuse);
    if (!policy.starts_at_images) {
        if (!canvas.is_null()) refuse("policy: 'canvas' is " + std::string(canvas.type_name()) + "; expected null");
        if (!read_list(json, kWhere, "cameras", refuse).empty())
            refuse("policy: 'cameras' is not empty, but the engine starts at latents");
        return;
    }
    const std::vector<std::int64_t> size = read_integers(&canvas, kWhere, "canvas", refuse);
    if (size.size() != 2 || size[0] < 1 || size[1] < 1 || size[0] > kMaxSize || size[1] > kMaxSize)
        refuse("policy: 'canvas' must be [height, width], 1 to " + std::to_string(kMaxSize) + " each");
    policy.canvas_height = size[0];
    policy.canvas_width = size[1];
    read_cameras(json, policy, refuse);
}

const Shape& expect_width(const Graph& graph, std::size_t tensor, const std::string& where, const Refusal& refuse) {
    const Shape& shape = graph.tensors[tensor].shape;
    if (shape.size() != 2 || shape[1] != graph.policy.text_width)
        refuse(where + ": tensor '" + graph.tensors[tensor].name + "' has shape " + shape_text(shape) +
               "; expected [rows, " + std::to_string(graph.policy.text_width) + "]");
    if (const DType dtype = graph.tensors[tensor].dtype; dtype != DType::f32 && dtype != DType::bf16)
        refuse(where + ": tensor '" + graph.tensors[tensor].name + "' is " + dtype_name(dtype) +
               "; expected f32 or bf16");
    return shape;
}

void read_text_encoder(const JsonValue& json, const TensorIndex& tensors, Graph& graph, const Refusal& refuse) {
    const std::string where = "policy: text_encoder";
    const JsonValue& encoder = read_member(json, kWhere, "text_encoder", refuse);
    if (encoder.is_null()) return;
    if (encoder.object() == nullptr) refuse(where + " is " + encoder.type_name() + "; expected an object or null");
    const std::string& kind = read_string(encoder, where, "kind", refuse);
    if (kind != "hashed_words") refuse(where + ": kind '" + kind + "' is unknown; expected hashed_words");
    TextEncoder& result = graph.policy.text_encoder;
    result.present = true;
    result.embedding = find_tensor(encoder, where, "embedding", tensors, refuse);
    result.position = find_tensor(encoder, where, "position", tensors, refuse);
    expect_width(graph, result.embedding, where, refuse);
    const Shape& position = expect_width(graph, result.position, where, refuse);
    if (position[0] != graph.policy.context_rows)
        refuse(where + ": 'position' has " + std::to_string(position[0]) + " rows; expected " +
               std::to_string(graph.policy.context_rows));
}

void read_instructions(const JsonValue& json, const TensorIndex& tensors, Graph& graph, const Refusal& refuse) {
    std::unordered_set<std::string_view> texts;
    for (const JsonValue& item : read_list(json, kWhere, "instructions", refuse)) {
        const std::string where = "policy: instruction " + std::to_string(graph.policy.instructions.size());
        if (item.object() == nullptr) refuse(where + " is " + item.type_name() + "; expected an object");
        const std::string& text = read_string(item, where, "text", refuse);
        if (text.empty()) refuse(where + ": 'text' is empty");
        if (!texts.insert(text).second) refuse(where + ": the text '" + text + "' is there twice");
        const std::size_t context = find_tensor(item, where, "context", tensors, refuse);
        const Shape& shape = expect_width(graph, context, where, refuse);
        if (shape[0] > graph.policy.context_rows)
            refuse(where + ": has " + std::to_string(shape[0]) + " rows; expected at most " +
                   std::to_string(graph.policy.context_rows));
        graph.policy.instructions.push_back({text, context});
    }
}

// Not used here, but told to those who drive a robot by it.
void check_control_rate(const JsonValue& json, const Refusal& refuse) {
    const JsonValue* rate = json.find("control_hz");
    if (rate == nullptr || rate->is_null()) return;
    if (rate->number() == nullptr)
        refuse("policy: 'control_hz' is " + std::string(rate->type_name()) + "; expected a positive number or null");
    if (!(rate->number()->value > 0))
        refuse("policy: 'control_hz' is " + std::to_string(rate->number()->value) +
               "; expected a positive number or null");
}

}  // namespace

void read_policy(const JsonValue& document, const TensorIndex& tensors, Graph& graph, const Refusal& refuse) {
    const JsonValue& json = read_object(document, "the document", "policy", refuse);
    PolicyDescription& policy = graph.policy;
    const auto size = [&](const char* key) { return read_integer(json, kWhere, key, 1, kMaxSize, refuse); };
    policy.state_width = size("state_width");
    policy.action_width = size("action_width");
    policy.horizon = size("horizon");
    policy.replan = read_integer(json, kWhere, "replan", 1, policy.horizon, refuse);
    policy.context_rows = size("context_rows");
    policy.text_width = size("text_width");
    policy.prompt_template = read_string(json, kWhere, "prompt_template", refuse);
    const std::size_t task = policy.prompt_template.find(kTask);
    if (task == std::string::npos || policy.prompt_template.find(kTask, task + 1) != std::string::npos)
        refuse("policy: 'prompt_template' is '" + policy.prompt_template + "'; expected a text with {task} in it once");
    const Shape latent = read_integers(json.find("latent_shape"), kWhere, "latent_shape", refuse);
    if (latent.size() != 3 || element_count(latent) < 0)
        refuse("policy: 'latent_shape' must be [channels, height, width]");
    for (std::size_t i = 0; i < 3; ++i) policy.latent_shape[i] = latent[i];
    check_control_rate(json, refuse);
    read_start(json, policy, refuse);
    read_text_encoder(json, tensors, graph, refuse);
    read_instructions(json, tensors, graph, refuse);
}

}  // namespace lightwam::engine
