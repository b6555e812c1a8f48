"""What our convolution tactics share."""
