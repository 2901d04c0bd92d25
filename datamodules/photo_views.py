"""Random views of the photographs inside scikit-image's package, and the SIFT descriptors of a view."""

import functools
from importlib import resources

import numpy as np
from jaxtyping import UInt8

# Photographs that ship inside the scikit-image wheel; its others are downloads, drawings, or show too little to detect.
# No scene is on both sides (both halves of the stereo pair are training images), yet both sides have textures, people,
# objects and print.
TRAINING_PHOTOGRAPHS = (
    "astronaut.png",
    "brick.png",
    "coffee.png",
    "grass.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "page.png",
    "rocket.jpg",
)
DATABASE_PHOTOGRAPHS = ("camera.png", "chelsea.png", "coins.png", "gravel.png", "text.png")

DESCRIPTOR_DIM = 128
VIEW_SIZE = 400  # pixels, longest side of a view: a view costs about 20 ms, almost all of it SIFT
SCALE_RANGE = (0.4, 1.6)  # size of the scene in the view relative to the photograph
CORNER_JITTER = 0.12  # perspective: each corner of the view moves by up to this share of its side
GAMMA_RANGE = (0.6, 1.6)
CONTRAST_RANGE = (0.5, 1.2)
BRIGHTNESS_RANGE = (-30.0, 30.0)  # grey levels of 255
NOISE_RANGE = (0.0, 8.0)  # standard deviation, grey levels of 255

_INSTALL_HINT = "photo_sift needs OpenCV and scikit-image: pip install 'qinco_lit[demo]'"


def require_packages() -> None:
    """Check that the packages of the `demo` extra are installed.

    Raises ValueError, one line that names the extra, when OpenCV or scikit-image is missing.
    """
    try:
        import cv2  # noqa: F401
        import skimage  # noqa: F401
    except ImportError as error:
        raise ValueError(f"{_INSTALL_HINT} (missing: {error.name})") from None


@functools.cache
def load_photograph(name: str) -> UInt8[np.ndarray, "height width channels"]:
    """Read one photograph from the installed scikit-image package, RGB or grey (channels 3 or 1), values 0..255.

    Raises FileNotFoundError when the installed scikit-image does not carry the file; nothing is downloaded.
    """
    require_packages()
    from skimage import io

    resource = resources.files("skimage") / "data" / name
    if not resource.is_file():
        raise FileNotFoundError(
            f"scikit-image carries no photograph {name!r}; pip install 'qinco_lit[demo]' brings one that does"
        )
    with resources.as_file(resource) as path:
        photograph = np.asarray(io.imread(path), dtype=np.uint8)
    photograph = photograph[:, :, None] if photograph.ndim == 2 else photograph[:, :, :3]
    return np.ascontiguousarray(photograph)


def random_view(
    photograph: UInt8[np.ndarray, "height width channels"], rng: np.random.Generator
) -> tuple[UInt8[np.ndarray, "view_height view_width"], UInt8[np.ndarray, "view_height view_width"]]:
    """Draw a grey view of a photograph: random place, scale, rotation, mirror, perspective, tone and noise.

    Returns the view, values 0..255, and a mask that is non-zero where the view shows the photograph; the rest of the
    view continues the photograph by reflection, so that its border makes no edge.
    """
    import cv2

    low, high = np.log(SCALE_RANGE)
    scale = float(np.exp(rng.uniform(low, high)))
    if scale < 1:  # area averaging: a warp alone would alias
        size = (round(photograph.shape[1] * scale), round(photograph.shape[0] * scale))
        photograph = np.atleast_3d(cv2.resize(photograph, size, interpolation=cv2.INTER_AREA))
    height, width, channels = photograph.shape
    zoom = max(scale, 1.0)
    side = int(min(VIEW_SIZE, zoom * max(height, width)))

    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], dtype=np.float64)
    angle = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    mirror = np.array([rng.choice((-1.0, 1.0)), 1.0])
    jittered = corners + rng.uniform(-2 * CORNER_JITTER, 2 * CORNER_JITTER, size=(4, 2))
    centre = rng.uniform(0.2, 0.8, size=2) * (width, height)
    source = (jittered * mirror) @ rotation.T * (side / 2 / zoom) + centre
    target = (corners + 1) * (side / 2)
    matrix = cv2.getPerspectiveTransform(target.astype(np.float32), source.astype(np.float32))
    nearest = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    linear = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    view = cv2.warpPerspective(photograph, matrix, (side, side), flags=linear, borderMode=cv2.BORDER_REFLECT_101)
    mask = cv2.warpPerspective(np.full((height, width), 255, np.uint8), matrix, (side, side), flags=nearest)

    if channels == 3:  # another mix of red, green and blue is another film
        view = cv2.transform(view, rng.dirichlet((2.0, 3.0, 2.0))[None])
    return _expose(np.asarray(view, np.uint8).reshape(side, side), rng), np.asarray(mask, np.uint8)


def _expose(view: UInt8[np.ndarray, "height width"], rng: np.random.Generator) -> UInt8[np.ndarray, "height width"]:
    """Change gamma, contrast and brightness of a grey view and add Gaussian noise."""
    import cv2

    levels = np.linspace(0, 1, 256) ** np.exp(rng.uniform(*np.log(GAMMA_RANGE)))
    levels = 128 + rng.uniform(*CONTRAST_RANGE) * (255 * levels - 128) + rng.uniform(*BRIGHTNESS_RANGE)
    exposed = cv2.LUT(view, levels.astype(np.float32))
    noise = rng.standard_normal(view.shape, dtype=np.float32) * np.float32(rng.uniform(*NOISE_RANGE))
    return np.clip(np.rint(exposed + noise), 0, 255).astype(np.uint8)


def view_descriptors(
    photographs: tuple[str, ...], entropy: tuple[int, ...], view_index: int, max_rows: int
) -> UInt8[np.ndarray, "rows 128"]:
    """SIFT descriptors of one random view: a pure function of its arguments.

    View `view_index` shows photograph `view_index % len(photographs)`; its random numbers come from
    `SeedSequence((*entropy, view_index))`. At most `max_rows` keypoints are kept, drawn at random and in random order;
    exact duplicates are dropped. OpenCV scales descriptors to norm 512 and rounds them to 0..255.
    """
    import cv2

    rng = np.random.default_rng(np.random.SeedSequence((*entropy, view_index)))
    view, mask = random_view(load_photograph(photographs[view_index % len(photographs)]), rng)
    _, found = cv2.SIFT.create().detectAndCompute(view, mask)
    if found is None:
        return np.empty((0, DESCRIPTOR_DIM), dtype=np.uint8)
    kept = rng.permutation(len(found))[:max_rows]
    descriptors: UInt8[np.ndarray, "rows 128"] = found[kept].astype(np.uint8)
    _, first = np.unique(descriptors, axis=0, return_index=True)
    return descriptors[np.sort(first)]
