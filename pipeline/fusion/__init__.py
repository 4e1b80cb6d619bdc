"""Fusion of what is seen and what is heard: `fuse(video_tokens, audio_tokens, present) → tokens`."""
