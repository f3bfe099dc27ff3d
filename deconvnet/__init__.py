"""DeconvNet (Noh, Hong, Han, ICCV 2015): windows, network, training, aggregation, metrics.

One convention for the whole project, converted only at the edges (Caffe BGR, OpenCV xywh, VOC 1-based):

- image: RGB uint8, H x W x 3;
- mask: uint8, H x W, class indices with 255 for void;
- box: int (x1, y1, x2, y2), 0-based, half-open: pixel columns x1 .. x2 - 1;
- scores: float32, C x H x W, before the softmax.
"""
