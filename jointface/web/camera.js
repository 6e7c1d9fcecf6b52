// The visitor's camera, shown in a video element.

const REFUSALS = {
  NotAllowedError: "The browser does not let this page use the camera. Allow it in the browser's settings of this page.",
  NotFoundError: "There is no camera. Choose a photo instead.",
  NotReadableError: "Another program uses the camera. Close that program, or choose a photo instead.",
};

export class Camera {
  constructor(video) {
    this.video = video;
  }

  get isOpen() {
    return Boolean(this.video.srcObject);
  }

  async open() {
    this.video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user" } });
    await this.video.play();
  }

  /** What it sees now. */
  take() {
    return createImageBitmap(this.video);
  }

  close() {
    this.video.srcObject?.getTracks().forEach((track) => track.stop());
    this.video.srcObject = null;
  }
}

/** Why it could not be opened, in a sentence. */
export function whyNoCamera(error) {
  if (!navigator.mediaDevices) return "Browsers give the camera only to pages that come by https. Choose a photo instead.";
  return REFUSALS[error.name] ?? `The camera cannot be used (${error.message}). Choose a photo instead.`;
}
